#include "weights/safetensors.h"
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <set>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/json.h"
#include "core/log.h"
#include "weights/file.h"

namespace merv {
namespace {

constexpr const char* kDamaged = "; the file is damaged or not a safetensors file, get it again";
constexpr uint64_t kMostHeaderBytes = 100'000'000;      // the format's own limit

struct KnownDType { const char* name; size_t bytes; bool is_float; };
constexpr KnownDType kDTypes[] = {{"F32", 4, true}, {"BF16", 2, true}, {"F16", 2, true}, {"F64", 8, true}, {"F8_E4M3", 1, true}, {"F8_E5M2", 1, true},
                                  {"I64", 8, false}, {"I32", 4, false}, {"I16", 2, false}, {"I8", 1, false}, {"U64", 8, false}, {"U32", 4, false},
                                  {"U16", 2, false}, {"U8", 1, false}, {"BOOL", 1, false}, {"C64", 8, false}};
const KnownDType* known(const std::string& dtype) {
    for (const KnownDType& d : kDTypes) if (dtype == d.name) return &d;
    return nullptr;
}

// The header's grammar as a state machine over JSON events: nothing but the format is ever stored, so a hostile header
// cannot make it build anything larger than itself.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
  public:
    HeaderReader(const std::string& file, uint64_t data_bytes) : file_(file), data_bytes_(data_bytes) {}
    std::map<std::string, TensorEntry> entries;
    std::map<std::string, std::string> metadata;

    bool null() override { wrong("null"); }
    bool boolean(bool) override { wrong("true or false"); }
    bool number_integer(number_integer_t) override { wrong("a negative number"); }
    bool number_float(number_float_t, const string_t&) override { wrong("a number that is not a 64-bit integer"); }
    bool binary(binary_t&) override { wrong("binary data"); }
    bool number_unsigned(number_unsigned_t v) override {
        if (at_ == At::shape) {
            if (entry_.shape.size() == size_t(Shape::max_rank)) bad("tensor ", shown(), " has more than ", Shape::max_rank, " dimensions");
            if (v > uint64_t(INT64_MAX)) bad("tensor ", shown(), " has a dimension of ", v);
            entry_.shape.push_back(int64_t(v));
        } else if (at_ == At::offsets) {
            if (offsets_ == 2) bad("data_offsets of tensor ", shown(), " has more than two numbers");
            (offsets_++ ? entry_.end : entry_.begin) = v;
        } else wrong("a number");
        return true;
    }
    bool string(string_t& v) override {
        if (at_ == At::metadata) metadata[field_] = std::move(v);
        else if (at_ == At::entry && field_ == "dtype") entry_.dtype = std::move(v);
        else wrong("a string");
        return true;
    }
    bool start_object(size_t) override {
        if (at_ == At::start) at_ = At::top;
        else if (at_ == At::top) at_ = name_ == "__metadata__" ? At::metadata : At::entry, entry_ = {}, offsets_ = 0, seen_.clear();
        else wrong("an object");
        return true;
    }
    bool start_array(size_t) override {
        if (at_ == At::entry && field_ == "shape") at_ = At::shape;
        else if (at_ == At::entry && field_ == "data_offsets") at_ = At::offsets;
        else wrong("a list");
        return true;
    }
    bool key(string_t& k) override {
        if (at_ == At::top) {
            if (entries.count(k) || (k == "__metadata__" && metadata_seen_)) bad("the name ", brief(k), " is there twice");
            metadata_seen_ |= k == "__metadata__";
            name_ = std::move(k);
            return true;
        }
        if (at_ == At::entry && k != "dtype" && k != "shape" && k != "data_offsets") bad("tensor ", shown(), " has an unknown field ", brief(k));
        if (!seen_.insert(k).second) bad("the field ", brief(k), " of ", shown(), " is there twice");
        field_ = std::move(k);
        return true;
    }
    bool end_array() override {
        if (at_ == At::offsets && offsets_ != 2) bad("data_offsets of tensor ", shown(), " has ", offsets_, " numbers, not two");
        at_ = At::entry;
        return true;
    }
    bool end_object() override {
        if (at_ == At::entry) finish_entry();
        at_ = at_ == At::top ? At::end : At::top;
        return true;
    }
    bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override { bad("the header is not JSON: ", json_syntax_error(e)); }

  private:
    enum class At { start, top, metadata, entry, shape, offsets, end };

    template <class... A> [[noreturn]] void bad(const A&... parts) const {
        fail(Exit::bad_weights, file_, ": ", parts..., kDamaged);
    }
    [[noreturn]] void wrong(const char* what) const {
        if (at_ == At::start) bad("the header is ", what, ", not an object");
        if (at_ == At::top) bad("tensor ", shown(), " is described by ", what, ", not by an object");
        if (at_ == At::metadata) bad("__metadata__ holds ", what, " at ", brief(field_), "; only strings are allowed");
        bad("tensor ", shown(), " has ", what, at_ == At::entry ? " for " : " in ", field_);
    }
    std::string shown() const { return brief(name_); }

    void finish_entry() {
        for (const char* field : {"dtype", "shape", "data_offsets"}) if (!seen_.count(field)) bad("tensor ", shown(), " has no ", field);
        const KnownDType* type = known(entry_.dtype);
        if (!type) fail(Exit::bad_weights, file_, ": tensor ", shown(), " has the dtype ", brief(entry_.dtype, 20), ", which is not supported");
        uint64_t bytes = 1;
        for (int64_t d : entry_.shape)
            if (__builtin_mul_overflow(bytes, uint64_t(d), &bytes) || bytes > uint64_t(1) << 62) bad("tensor ", shown(), " has more than 2^62 elements");
        if (__builtin_mul_overflow(bytes, uint64_t(type->bytes), &bytes)) bad("tensor ", shown(), " has more than 2^64 bytes");
        if (entry_.end < entry_.begin) bad("tensor ", shown(), " ends (byte ", entry_.end, ") before it begins (", entry_.begin, ")");
        if (entry_.end - entry_.begin != bytes)
            bad("tensor ", shown(), " has ", entry_.end - entry_.begin, " bytes where ", entry_.dtype, Shape(entry_.shape), " takes ", bytes);
        if (entry_.end > data_bytes_) bad("tensor ", shown(), " ends at byte ", entry_.end, " of ", data_bytes_, ": the file is cut short");
        entries.emplace(name_, std::move(entry_));
    }

    const std::string& file_;
    uint64_t data_bytes_;
    At at_ = At::start;
    bool metadata_seen_ = false;
    std::string name_, field_;
    std::set<std::string> seen_;
    TensorEntry entry_;
    int offsets_ = 0;
};

template <class T> T load(const std::byte* at) {        // files promise no alignment
    T v;
    std::memcpy(&v, at, sizeof v);
    return v;
}

struct Descriptor {
    int fd;
    ~Descriptor() { if (fd >= 0) ::close(fd); }
};

}

// Exact: an f16 is an f32 with a shorter exponent. Multiplying by 2^112 moves the exponent and normalises subnormals;
// infinities and NaNs get their all-ones exponent back.
float from_f16(uint16_t h) {
    const float scaled = std::bit_cast<float>(uint32_t(h & 0x7fff) << 13) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | ((h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u) | uint32_t(h & 0x8000) << 16);
}

bool is_float_dtype(const std::string& dtype) {
    const KnownDType* d = known(dtype);
    return d && d->is_float;
}

std::map<std::string, TensorEntry> parse_safetensors_header(std::span<const std::byte> start, uint64_t file_size, const std::string& name,
                                                            std::map<std::string, std::string>* metadata) {
    auto bad = [&](const auto&... parts) { fail(Exit::bad_weights, name, ": ", parts..., kDamaged); };
    if (file_size < 8 || start.size() < 8) bad("only ", file_size, " bytes");
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | uint64_t(start[size_t(i)]);
    if (n > kMostHeaderBytes) bad("a header of ", n, " bytes; at most ", kMostHeaderBytes, " are allowed");
    if (n > file_size - 8 || n > start.size() - 8) bad("a header of ", n, " bytes in a file of ", file_size, ": the file is cut short");
    const auto* text = reinterpret_cast<const char*>(start.data() + 8);
    if (n == 0 || text[0] != '{') bad("the header does not start with {");
    if (std::memchr(text, 0, n)) bad("a zero byte in the header");

    HeaderReader reader(name, file_size - 8 - n);
    nlohmann::json::sax_parse(text, text + n, &reader);

    std::vector<const std::pair<const std::string, TensorEntry>*> order;
    for (const auto& entry : reader.entries) order.push_back(&entry);
    auto place = [](auto* e) { return std::pair(e->second.begin, e->second.end); };
    std::sort(order.begin(), order.end(), [&](auto* a, auto* b) { return place(a) < place(b); });
    uint64_t at = 0;
    const std::string* previous = nullptr;
    for (const auto* entry : order) {
        if (entry->second.begin < at) bad("tensors ", brief(*previous), " and ", brief(entry->first), " overlap");
        if (entry->second.begin > at) bad("bytes ", at, " to ", entry->second.begin, " belong to no tensor (before ", brief(entry->first), ")");
        at = entry->second.end, previous = &entry->first;
    }
    if (at != file_size - 8 - n) bad(file_size - 8 - n - at, " bytes after the last tensor");
    if (metadata) *metadata = std::move(reader.metadata);
    return std::move(reader.entries);
}

std::shared_ptr<SafeTensors> SafeTensors::open(const std::string& path) {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) fail(Exit::bad_weights, path, ": cannot be opened: ", std::strerror(errno), "; check the path");
    if (!S_ISREG(info.st_mode))
        fail(Exit::bad_weights, path, ": a safetensors file is expected, this is a ", S_ISDIR(info.st_mode) ? "folder" : "special file");
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.fd < 0 || ::fstat(file.fd, &info) != 0) fail(Exit::bad_weights, path, ": cannot be opened: ", std::strerror(errno), "; check its permissions");
    const auto size = size_t(info.st_size);
    if (size == 0) fail(Exit::bad_weights, path, ": the file is empty; get it again");

    void* p = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (p == MAP_FAILED) fail(Exit::bad_weights, path, ": cannot be mapped: ", std::strerror(errno));
    auto self = std::make_shared<SafeTensors>();
    self->path_ = path;
    self->mapping_.reset(static_cast<const std::byte*>(p), [size](const std::byte* at) { ::munmap(const_cast<std::byte*>(at), size); });
    self->entries_ = parse_safetensors_header({self->mapping_.get(), size}, size, path, &self->metadata_);
    self->data_start_ = 8 + load<uint64_t>(self->mapping_.get());
    return self;
}

Tensor SafeTensors::tensor(const std::string& name) const {
    const auto found = entries_.find(name);
    CHECK(found != entries_.end(), path_, ": no tensor ", brief(name));
    const TensorEntry& e = found->second;
    const Shape shape{std::span<const int64_t>(e.shape)};
    const std::byte* at = mapping_.get() + data_start_ + e.begin;
    if (e.dtype == "F16") {
        Tensor t(shape);
        float* out = t.data<float>();
        #pragma omp parallel for simd if (t.numel() > 1 << 16)
        for (int64_t i = 0; i < t.numel(); i++) out[i] = from_f16(load<uint16_t>(at + 2 * i));
        return t;
    }
    if (e.dtype == "I64") {
        Tensor t(shape, DType::i32);
        for (int64_t i = 0; i < t.numel(); i++) {
            const auto v = load<int64_t>(at + 8 * i);
            if (v < INT32_MIN || v > INT32_MAX) fail(Exit::bad_weights, path_, ": tensor ", brief(name), " holds ", v, ", which does not fit 32 bits");
            t.data<int32_t>()[i] = int32_t(v);
        }
        return t;
    }
    constexpr std::pair<const char*, DType> in_place[] = {{"F32", DType::f32}, {"BF16", DType::bf16}, {"U8", DType::u8}, {"I32", DType::i32}};
    for (auto [text, dtype] : in_place) {
        if (e.dtype != text) continue;
        if (reinterpret_cast<uintptr_t>(at) % size_t(size_of(dtype)) == 0)
            return Tensor::view(Storage::borrow(const_cast<std::byte*>(at), e.end - e.begin, mapping_), shape, dtype);
        Tensor t(shape, dtype);
        if (t.bytes()) std::memcpy(t.raw(), at, t.bytes());
        return t;
    }
    fail(Exit::bad_weights, path_, ": tensor ", brief(name), " has the dtype ", e.dtype, "; F32, BF16, F16, U8, I32 and I64 can be read");
}

void write_safetensors(const std::string& path, std::span<const TensorSpec> tensors, const TensorValues& values, const std::map<std::string, std::string>& metadata) {
    std::vector<size_t> order;
    std::set<std::string> names;
    for (const TensorSpec& t : tensors) {
        CHECK(t.name != "__metadata__" && valid_utf8(t.name) == t.name, "write_safetensors: ", brief(t.name), " cannot be a name");
        CHECK(names.insert(t.name).second, "write_safetensors: the name ", brief(t.name), " is there twice");
        order.push_back(order.size());
    }
    // Wide elements first: there are no gaps between tensors, so this alone keeps each aligned to its element.
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size_of(tensors[a].dtype) > size_of(tensors[b].dtype); });
    Json header = Json::object();
    for (const auto& [key, value] : metadata) header["__metadata__"][valid_utf8(key)] = valid_utf8(value);
    std::string text = header.dump();
    text.pop_back();
    size_t at = 0;
    for (const size_t i : order) {
        const TensorSpec& t = tensors[i];
        constexpr const char* dtypes[] = {"F32", "BF16", "I32", "U8"};
        const Json entry = {{"dtype", dtypes[int(t.dtype)]}, {"shape", std::vector<int64_t>(t.shape.begin(), t.shape.end())}, {"data_offsets", {at, at + t.bytes()}}};
        text += concat(text.size() > 1 ? "," : "", Json(t.name).dump(), ":", entry.dump());
        at += t.bytes();
    }
    text += "}";
    while ((8 + text.size()) % 64) text += ' ';         // the format allows trailing spaces
    if (text.size() > kMostHeaderBytes) fail(Exit::runtime, path, ": a header of ", text.size(), " bytes would exceed the format's limit");

    NewFile file(path);
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = uint8_t(uint64_t(text.size()) >> 8 * i);
    file.write(length, 8);
    file.write(text.data(), text.size());
    for (const size_t i : order)
        for (size_t begin = 0, all = tensors[i].bytes(), end; begin < all; begin = end) {
            end = std::min(all, begin + kWritePiece);
            file.write(values(i, begin, end), end - begin);
        }
    file.commit();
}

void write_safetensors(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors, const std::map<std::string, std::string>& metadata) {
    std::vector<TensorSpec> specs;
    for (const auto& [name, t] : tensors) {
        CHECK(t.raw() || !t.bytes(), "write_safetensors: ", brief(name), " has no values");
        specs.push_back({name, t.dtype(), t.shape()});
    }
    write_safetensors(path, specs, [&](size_t i, size_t begin, size_t) { return tensors[i].second.raw() + begin; }, metadata);
}

}
