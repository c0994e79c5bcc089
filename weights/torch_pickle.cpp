#include "weights/torch_pickle.h"
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include "core/json.h"
#include "core/log.h"
#include "weights/file.h"
#include "weights/hash.h"
#include "weights/pickle.h"
#include "weights/zip.h"

namespace merv {
namespace {

constexpr std::string_view kZip("PK\x03\x04", 4);
constexpr std::string_view kLegacy("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", 15);     // the pickle of torch's magic number
constexpr size_t kMostPickle = size_t(64) << 20, kMostNames = size_t(64) << 20, kMostName = 1000, kMostVisits = size_t(1) << 22;
constexpr uint64_t kMostRepeated = uint64_t(64) << 20;  // bytes of a tensor that is larger than its storage
constexpr int kMostDepth = 64;
constexpr size_t kPiece = size_t(16) << 20;

std::string_view text_of(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
bool is_old_tar(std::string_view first) { return first.size() >= 262 && first.substr(257, 5) == "ustar"; }

// Elements [first, first + count) of a strided tensor in row-major order; each is N bytes.
template <size_t N> void gather_elements(const std::byte* from, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int64_t first, int64_t count, std::byte* out) {
    std::array<int64_t, Shape::max_rank> at{};
    int64_t offset = 0;
    for (size_t d = sizes.size(); d-- > 0; first /= sizes[d]) at[d] = first % sizes[d], offset += at[d] * strides[d];
    for (; count > 0; count--, out += N) {
        std::memcpy(out, from + offset * int64_t(N), N);
        for (size_t d = sizes.size(); d-- > 0;) {
            if (++at[d] < sizes[d]) { offset += strides[d]; break; }
            offset -= (sizes[d] - 1) * strides[d], at[d] = 0;
        }
    }
}

}

// Fills a TorchFile from the bytes of a file.
class TorchReader {
  public:
    TorchReader(TorchFile& file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes), where_(file.path_) {}

    void read() {
        const std::string_view all = text_of(bytes_);
        if (all.starts_with(kZip)) read_zip();
        else if (all.starts_with(kLegacy)) read_legacy();
        else if (is_old_tar(all)) fail(Exit::bad_weights, where_, ": the tar format of torch before 0.1.10 is not supported; save it again with a newer torch");
        else fail(Exit::bad_weights, where_, ": neither torch.save's zip archive nor its older format; is it a weights file?");
        visit(pickle_.root, "", 0);
    }

  private:
    struct Stored { size_t data; uint64_t elements, base; };    // base: first element of a view of a storage (very old files)

    template <class... A> [[noreturn]] void bad(const A&... parts) const { fail(Exit::bad_weights, where_, ": ", parts..., "; the file is damaged, get it again"); }

    // ---- the two containers

    void read_zip() {
        entries_ = read_zip_directory(bytes_, where_);
        for (const auto& [name, entry] : entries_) {
            if (!name.ends_with("/data.pkl") || name.find('/') != name.size() - 9) continue;
            if (!root_.empty()) bad("holds ", brief(root_), "data.pkl and ", brief(name));
            root_ = name.substr(0, name.size() - 8);
        }
        if (root_.empty()) fail(Exit::bad_weights, where_, ": a zip archive, but not one that torch.save wrote: it holds no data.pkl");
        if (entries_.count(root_ + "byteorder") && !text_of(record("byteorder")).starts_with("little")) bad("its byte order is not little");
        const bool script = entries_.count(root_ + "constants.pkl");
        const auto pickle = record("data.pkl");
        if (pickle.size() > kMostPickle) bad("a pickle of ", pickle.size(), " bytes; at most ", kMostPickle, " are read");
        Crc32 crc;
        crc.add(pickle);
        if (crc.value() != entries_.at(root_ + "data.pkl").crc) bad("data.pkl does not have its checksum");
        pickle_ = read_pickle(pickle, where_, script);
        if (pickle_.bytes != pickle.size()) bad(pickle.size() - pickle_.bytes, " bytes after the pickle's end");
        file_.metadata_["container"] = script ? "TorchScript archive" : "torch zip archive";
    }
    std::span<const std::byte> record(const std::string& name) const {
        const auto found = entries_.find(root_ + name);
        if (found == entries_.end()) bad("the entry ", brief(root_ + name), " is missing");
        if (found->second.compressed)
            fail(Exit::bad_weights, where_, ": the entry ", brief(root_ + name), " is compressed; torch stores it as it is, so something packed this file again: ",
                 "unpack it, or get it from its origin");
        return bytes_.subspan(size_t(found->second.begin), size_t(found->second.bytes));
    }

    void read_legacy() {
        size_t at = kLegacy.size();
        auto next = [&] {
            Pickle p = read_pickle(bytes_.subspan(at), where_);
            at += p.bytes;
            return p;
        };
        const Pickle version = next(), system = next();
        if (version[version.root].kind != PickleValue::integer || version[version.root].number != 1001) bad("its protocol is not 1001");
        const PickleValue& info = system[system.root];
        for (size_t i = 0; info.kind == PickleValue::dict && i + 1 < info.items.size(); i += 2)
            if (system[info.items[i]].text == "little_endian" && system[info.items[i + 1]].number != 1) bad("its byte order is not little");
        pickle_ = next();
        const Pickle keys = next();
        if (keys[keys.root].kind != PickleValue::list) bad("its list of storages is no list");

        std::map<std::string_view, const PickleValue*> declared;
        for (const PickleValue& v : pickle_.values) if (v.kind == PickleValue::storage) declared.emplace(key(v), &v);
        for (const uint32_t i : keys[keys.root].items) {
            const PickleValue& k = keys[i];
            const auto storage = declared.find(k.text);
            if (k.kind != PickleValue::string || storage == declared.end()) bad("bytes for a storage that no tensor has");
            const uint64_t bytes = storage_bytes(*storage->second), elements = uint64_t(pickle_[storage->second->items[3]].number);
            uint64_t there = 0;
            if (bytes_.size() - at < 8) bad("it ends before the storage ", brief(k.text), ": the file is cut short");
            std::memcpy(&there, bytes_.data() + at, 8), at += 8;
            if (there != elements) bad("the storage ", brief(k.text), " has ", there, " elements, the pickle says ", elements);
            if (bytes_.size() - at < bytes) bad("the storage ", brief(k.text), " of ", bytes, " bytes ends after the file: it is cut short");
            if (!legacy_.emplace(k.text, add({bytes_.subspan(at, size_t(bytes)), 0, false})).second) bad("the storage ", brief(k.text), " is there twice");
            at += size_t(bytes);
        }
        if (at != bytes_.size()) bad(bytes_.size() - at, " bytes after the last storage");
        file_.metadata_["container"] = "torch before 1.6";
    }

    // ---- storages

    std::string_view key(const PickleValue& storage) const { return pickle_[storage.items[1]].text; }
    std::string type_name(const PickleValue& type) const { return "torch." + brief(type.text, 40); }
    const char* type(const PickleValue& v, const std::string& what) const {     // F32, ...; "?": bytes
        const char* dtype = pickle_.dtype(v);
        if (!dtype) bad(what, " has no type");
        if (!*dtype) fail(Exit::bad_weights, where_, ": ", what, " has the type ", type_name(v), ", which is not supported");
        return dtype;
    }
    uint64_t storage_bytes(const PickleValue& storage, const std::string& of = "") const {
        const std::string what = of.empty() ? concat("the storage ", brief(key(storage))) : of;
        const std::string dtype = type(pickle_[storage.items[0]], what);
        const int64_t elements = pickle_[storage.items[3]].number;
        uint64_t bytes = 0;
        if (elements < 0 || __builtin_mul_overflow(uint64_t(elements), uint64_t(dtype == "?" ? 1 : dtype_bytes(dtype)), &bytes)) bad(what, ": a storage of ", elements, " elements");
        return bytes;
    }
    size_t add(TorchFile::Data data) {
        file_.data_.push_back(data);
        return file_.data_.size() - 1;
    }
    // Where the storage's bytes are; `element`: of the tensor that looks.
    Stored stored(const PickleValue& storage, size_t element, const std::string& what) {
        const uint64_t bytes = storage_bytes(storage, what);
        const std::string name(key(storage));
        Stored s{0, bytes / element, 0};
        if (root_.empty()) {
            const auto found = legacy_.find(name);
            if (found == legacy_.end()) bad(what, ": the storage ", brief(name), " is missing");
            s.data = found->second;
        } else {
            const auto found = zipped_.find(name);
            if (found != zipped_.end()) s.data = found->second;
            else zipped_[name] = s.data = add({record("data/" + name), entries_.at(root_ + "data/" + name).crc, true});
        }
        if (file_.data_[s.data].bytes.size() != bytes) bad(what, ": the storage ", brief(name), " has ", file_.data_[s.data].bytes.size(), " bytes, the pickle says ", bytes);
        if (storage.items.size() == 5 && pickle_[storage.items[4]].kind != PickleValue::none) {     // a view: (key, offset, elements)
            const PickleValue& view = pickle_[storage.items[4]];
            const bool sound = view.kind == PickleValue::tuple && view.items.size() == 3 && pickle_[view.items[1]].kind == PickleValue::integer && pickle_[view.items[2]].kind == PickleValue::integer;
            const int64_t base = sound ? pickle_[view.items[1]].number : -1, size = sound ? pickle_[view.items[2]].number : -1;
            if (base < 0 || size < 0 || uint64_t(base) > s.elements || uint64_t(size) > s.elements - uint64_t(base)) bad(what, ": a view that leaves its storage");
            s.base = uint64_t(base), s.elements = uint64_t(size);
        }
        return s;
    }

    // ---- tensors

    // `name` is the way to the value: keys, indices and attributes, joined by dots.
    void visit(uint32_t index, const std::string& name, int depth) {
        const PickleValue& v = pickle_[index];
        if (++visits_ > kMostVisits) bad("more than ", kMostVisits, " values, counting shared ones each time");
        if (v.kind == PickleValue::tensor) return add_tensor(name.empty() && depth == 0 ? "tensor" : name, v);
        const bool pairs = v.kind == PickleValue::dict;
        if (!pairs && v.kind != PickleValue::list && v.kind != PickleValue::tuple && v.kind != PickleValue::record) return;
        if (depth == kMostDepth) bad("nested deeper than ", kMostDepth, " levels, or inside itself");
        if (v.kind == PickleValue::record) return v.items.empty() ? void() : visit(v.items[0], name, depth + 1);
        for (size_t i = 0; i < v.items.size(); i += pairs ? 2 : 1) {
            const PickleValue& k = pickle_[v.items[i]];
            const bool words = pairs && k.kind == PickleValue::string;
            if (pairs && !words && k.kind != PickleValue::integer) continue;       // no name: an optimizer's own business
            const std::string last = words ? brief(k.text, kMostName) : std::to_string(pairs ? k.number : int64_t(i));
            visit(v.items[i + (pairs ? 1 : 0)], name.empty() ? last : name + "." + last, depth + 1);
        }
    }

    std::vector<int64_t> integers(uint32_t index, const std::string& what, const char* kind) const {
        const PickleValue& v = pickle_[index];
        if (v.kind != PickleValue::tuple && v.kind != PickleValue::list) bad(what, ": its ", kind, " are no tuple");
        if (v.items.size() > size_t(Shape::max_rank)) fail(Exit::bad_weights, where_, ": ", what, " has ", v.items.size(), " dimensions; at most ", Shape::max_rank, " are supported");
        std::vector<int64_t> all;
        for (const uint32_t i : v.items) {
            if (pickle_[i].kind != PickleValue::integer) bad(what, ": its ", kind, " are no whole numbers");
            if (pickle_[i].number < 0) bad(what, " has a negative number, ", pickle_[i].number, ", in its ", kind);
            all.push_back(pickle_[i].number);
        }
        return all;
    }

    void add_tensor(const std::string& name, const PickleValue& tensor) {
        const std::string what = "tensor " + brief(name);
        if (valid_utf8(name) != name || name == "__metadata__") bad("a tensor's name is not usable: ", brief(name));
        if (name.size() > kMostName || (names_ += name.size()) > kMostNames) bad(what, ": the names are too long");
        const PickleValue &storage = pickle_[tensor.items[0]], &offset = pickle_[tensor.items[1]];
        if (storage.kind != PickleValue::storage) bad(what, " has no storage");
        std::string dtype = type(pickle_[storage.items[0]], what);
        if (tensor.typed) dtype = type(pickle_[tensor.items[4]], what);
        if (dtype == "?") dtype = "U8";
        const size_t element = dtype_bytes(dtype);
        const std::vector<int64_t> sizes = integers(tensor.items[2], what, "sizes"), strides = integers(tensor.items[3], what, "strides");
        if (sizes.size() != strides.size()) bad(what, " has ", sizes.size(), " sizes and ", strides.size(), " strides");
        if (offset.kind != PickleValue::integer || offset.number < 0) bad(what, " begins before its storage");

        uint64_t numel = 1, bytes = 0, last = uint64_t(offset.number), step = 0;
        const bool none = std::find(sizes.begin(), sizes.end(), 0) != sizes.end();
        for (const int64_t n : sizes) if (__builtin_mul_overflow(numel, uint64_t(none ? std::min<int64_t>(n, 1) : n), &numel) || numel > uint64_t(1) << 62) bad(what, " has more than 2^62 elements");
        if (__builtin_mul_overflow(numel, uint64_t(element), &bytes)) bad(what, " has more than 2^64 bytes");
        const Stored s = stored(storage, element, what);
        bool packed = true;
        uint64_t expected = 1;
        for (size_t d = sizes.size(); d-- > 0 && !none;) {
            if (__builtin_mul_overflow(uint64_t(sizes[d] - 1), uint64_t(strides[d]), &step) || __builtin_add_overflow(last, step, &last)) bad(what, " leaves its storage");
            packed &= sizes[d] == 1 || uint64_t(strides[d]) == expected;
            expected *= uint64_t(sizes[d]);     // at most numel
        }
        if (!none && last >= s.elements) bad(what, " leaves its storage: it needs element ", last, " of ", s.elements);
        if (bytes > kMostRepeated && bytes / element > s.elements) fail(Exit::bad_weights, where_, ": ", what, " repeats ", s.elements, " values to ", bytes, " bytes; save a copy of it (clone())");

        // With nothing in it the sizes still may not multiply to more than 64 bits later on.
        if (none) for (uint64_t n = 1; const int64_t d : sizes) if (d && (__builtin_mul_overflow(n, uint64_t(d), &n) || n > uint64_t(1) << 62)) bad(what, " has more than 2^62 elements");
        if (!file_.entries_.emplace(name, TensorEntry{dtype, sizes, 0, size_t(bytes)}).second) bad("the name ", brief(name), " is there twice");
        file_.views_.emplace(name, TorchFile::View{s.data, none ? 0 : size_t(s.base) + size_t(offset.number), element, strides, packed});
    }

    TorchFile& file_;
    std::span<const std::byte> bytes_;
    const std::string& where_;
    Pickle pickle_;
    std::map<std::string, ZipEntry> entries_;
    std::string root_;                          // "archive/"; empty: not a zip
    std::map<std::string, size_t> legacy_, zipped_;     // index of each storage's data by its key
    size_t visits_ = 0, names_ = 0;
};

std::shared_ptr<TorchFile> TorchFile::open(const std::string& path) {
    auto self = std::make_shared<TorchFile>();
    self->path_ = path;
    self->file_ = MappedFile::open(path, "a file of torch.save");
    TorchReader(*self, self->file_->bytes()).read();
    return self;
}
std::shared_ptr<TorchFile> TorchFile::parse(std::span<const std::byte> bytes, const std::string& name) {
    auto self = std::make_shared<TorchFile>();
    self->path_ = name;
    TorchReader(*self, bytes).read();
    return self;
}
bool TorchFile::recognises(std::string_view first) { return first.starts_with(kZip) || first.starts_with(kLegacy) || is_old_tar(first); }

void TorchFile::check(const std::string& name) const {
    Data& d = data_[views_.at(name).data];
    if (!d.unchecked) return;
    Crc32 crc;
    for (size_t at = 0; at < d.bytes.size(); at += kPiece) {
        const auto piece = d.bytes.subspan(at, std::min(kPiece, d.bytes.size() - at));
        crc.add(piece);
        if (file_) file_->forget(piece);
    }
    if (crc.value() != d.crc) fail(Exit::bad_weights, path_, ": the values of ", brief(name), " do not have their checksum; the file is damaged, get it again");
    d.unchecked = false;
}

std::span<const std::byte> TorchFile::place(const std::string& name) const {
    const View& v = views_.at(name);
    const TensorEntry& e = entry(name);
    if (!v.packed) return {};
    return data_[v.data].bytes.subspan(v.offset * v.element, e.end);
}
void TorchFile::gather(const std::string& name, size_t begin, size_t end, std::byte* out) const {
    const View& v = views_.at(name);
    const std::vector<int64_t>& sizes = entry(name).shape;
    const std::byte* from = data_[v.data].bytes.data() + v.offset * v.element;
    const auto first = int64_t(begin / v.element), count = int64_t((end - begin) / v.element);
    switch (v.element) {
    case 1: return gather_elements<1>(from, sizes, v.strides, first, count, out);
    case 2: return gather_elements<2>(from, sizes, v.strides, first, count, out);
    case 4: return gather_elements<4>(from, sizes, v.strides, first, count, out);
    case 8: return gather_elements<8>(from, sizes, v.strides, first, count, out);
    default: CHECK(false, path_, ": elements of ", v.element, " bytes");
    }
}

}
