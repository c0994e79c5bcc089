#include "weights/gguf.h"
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include "core/json.h"
#include "core/log.h"
#include "weights/file.h"

namespace merv {
namespace {

constexpr size_t kMaxName = 1024, kMaxKey = 65535, kMaxAlignment = 1 << 16;
constexpr int kMaxDimensions = 4;

// ggml's types: a row is made of blocks of so many values in so many bytes.
struct KnownType { uint32_t number; const char* name; size_t values, bytes; };
constexpr KnownType kTypes[] = {
    {0, "F32", 1, 4}, {1, "F16", 1, 2}, {2, "Q4_0", 32, 18}, {3, "Q4_1", 32, 20}, {6, "Q5_0", 32, 22}, {7, "Q5_1", 32, 24}, {8, "Q8_0", 32, 34}, {9, "Q8_1", 32, 40},
    {10, "Q2_K", 256, 84}, {11, "Q3_K", 256, 110}, {12, "Q4_K", 256, 144}, {13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210}, {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74}, {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50}, {20, "IQ4_NL", 32, 18}, {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82}, {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1}, {25, "I16", 1, 2}, {26, "I32", 1, 4}, {27, "I64", 1, 8}, {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56}, {30, "BF16", 1, 2}, {34, "TQ1_0", 256, 54}, {35, "TQ2_0", 256, 66}, {39, "MXFP4", 32, 17}};
constexpr const char* kReadable[] = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"};

enum ValueType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
constexpr size_t kScalarBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr const char* kValueNames[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

bool is_integer(uint32_t type) { return type <= kI32 || type == kU64 || type == kI64; }
int64_t integer_at(uint32_t type, const std::byte* at) {        // beyond 63 bits: the largest
    switch (type) {
        case kU8: return load_unaligned<uint8_t>(at);
        case kI8: return load_unaligned<int8_t>(at);
        case kU16: return load_unaligned<uint16_t>(at);
        case kI16: return load_unaligned<int16_t>(at);
        case kU32: return load_unaligned<uint32_t>(at);
        case kI32: return load_unaligned<int32_t>(at);
        case kU64: return int64_t(std::min<uint64_t>(load_unaligned<uint64_t>(at), INT64_MAX));
        default: return load_unaligned<int64_t>(at);
    }
}
double number_at(uint32_t type, const std::byte* at) { return type == kF32 ? double(load_unaligned<float>(at)) : type == kF64 ? load_unaligned<double>(at) : double(integer_at(type, at)); }
std::string_view text_of(std::span<const std::byte> s) { return {reinterpret_cast<const char*>(s.data()), s.size()}; }

// The part of the file that has not been read. Nothing is copied, and every length is compared with the bytes that are left.
class Reader {
  public:
    Reader(std::span<const std::byte> bytes, const std::string& name) : rest_(bytes), name_(name), size_(bytes.size()) {}
    template <class... A> [[noreturn]] void damaged(const A&... what) const {
        fail(Exit::bad_weights, name_, ": ", what..., "; the file is damaged or not a GGUF file, get it again");
    }
    std::span<const std::byte> take(uint64_t n, const char* what) {
        if (n > rest_.size()) damaged(what, " of ", n, " bytes at byte ", at(), " of ", size_);
        const auto head = rest_.first(size_t(n));
        rest_ = rest_.subspan(size_t(n));
        return head;
    }
    template <class T> T number(const char* what) { return load_unaligned<T>(take(sizeof(T), what).data()); }
    std::string_view text(const char* what) { return text_of(take(number<uint64_t>(what), what)); }
    std::string name(const char* what, size_t most) {
        const std::string_view s = text(what);
        if (s.empty() || s.size() > most || valid_utf8(s) != s) damaged(what, " '", brief(printable(s)), "' is no text of 1 to ", most, " bytes");
        return std::string(s);
    }
    // How many things of at least `least` bytes there are; no more than can be in the file.
    uint64_t count(const char* what, uint64_t least) {
        const auto n = number<uint64_t>(what);
        if (n > rest_.size() / least) damaged(n, " ", what, " in a file of ", size_, " bytes");
        return n;
    }
    size_t at() const { return size_ - rest_.size(); }
    const std::byte* position() const { return rest_.data(); }

  private:
    std::span<const std::byte> rest_;
    const std::string& name_;
    size_t size_;
};

// One row of `n` values. Blocks have a scale d, and Q4_1 a minimum m, in f16; low nibbles are the first half of a block.
void read_row(const std::string& type, const std::byte* at, int64_t n, float* out) {
    if (type == "F16") for (int64_t i = 0; i < n; i++) out[i] = from_f16(load_unaligned<uint16_t>(at + 2 * i));
    if (type == "Q8_0")
        for (int64_t i = 0; i < n; i += 32, at += 34) {
            const float d = from_f16(load_unaligned<uint16_t>(at));
            for (int64_t j = 0; j < 32; j++) out[i + j] = float(load_unaligned<int8_t>(at + 2 + j)) * d;
        }
    if (type == "Q4_0")
        for (int64_t i = 0; i < n; i += 32, at += 18) {
            const float d = from_f16(load_unaligned<uint16_t>(at));
            for (int64_t j = 0; j < 16; j++) {
                const int q = int(at[2 + j]);
                out[i + j] = float((q & 15) - 8) * d, out[i + j + 16] = float((q >> 4) - 8) * d;
            }
        }
    if (type == "Q4_1")
        for (int64_t i = 0; i < n; i += 32, at += 20) {
            const float d = from_f16(load_unaligned<uint16_t>(at)), m = from_f16(load_unaligned<uint16_t>(at + 2));
            for (int64_t j = 0; j < 16; j++) {
                const int q = int(at[4 + j]);
                out[i + j] = float(q & 15) * d + m, out[i + j + 16] = float(q >> 4) * d + m;
            }
        }
}

}

bool is_gguf(const std::string& path) {
    std::error_code ignored;
    return path.ends_with(".gguf") && std::filesystem::is_regular_file(path, ignored);
}

std::shared_ptr<Gguf> Gguf::open(const std::string& path) {
    const auto mapping = MappedFile::open(path, "a GGUF file");
    auto file = std::make_shared<Gguf>(parse(mapping->bytes(), path));
    file->keep_ = mapping;
    return file;
}

Gguf Gguf::parse(std::span<const std::byte> bytes, const std::string& name) {
    Gguf g;
    g.path_ = name;
    Reader r(bytes, name);
    if (text_of(bytes.first(std::min<size_t>(bytes.size(), 4))) != "GGUF") r.damaged("it does not begin with GGUF");
    r.take(4, "the magic");
    const auto version = r.number<uint32_t>("the version");
    if (version != 2 && version != 3)
        fail(Exit::bad_weights, name, ": GGUF ", (version & 0xffff) == 0 ? "in big-endian order" : concat("version ", version), " is not supported; versions 2 and 3 are, little-endian");
    const uint64_t tensors = r.count("tensors", 24), fields = r.count("metadata entries", 13);

    for (uint64_t i = 0; i < fields; i++) {
        const std::string key = r.name("a key", kMaxKey);
        Value v{.type = r.number<uint32_t>("a value's type")};
        auto scalar = [&](uint32_t type) {
            if (type > kF64 || type == kArray) r.damaged("the value of ", brief(key), " has the type ", type == kArray ? "array of arrays" : concat(type));
            return kScalarBytes[type];
        };
        if (v.type == kArray) {
            v.element = r.number<uint32_t>("an array's type");
            const size_t each = scalar(v.element);
            v.count = r.count("elements of an array", each ? each : 8);
            const std::byte* begin = r.position();
            if (each) v.bytes = r.take(v.count * each, "an array");
            else {
                for (uint64_t j = 0; j < v.count; j++) r.text("a string");
                v.bytes = {begin, r.position()};
            }
        } else {
            const size_t each = scalar(v.type);
            v.bytes = r.take(each ? each : r.number<uint64_t>("a string"), "a value");
        }
        if (!g.fields_.emplace(key, v).second) r.damaged("the key ", brief(key), " is there twice");
    }
    const auto alignment = uint64_t(g.integer("general.alignment", 1, kMaxAlignment, 32));
    if (!std::has_single_bit(alignment)) r.damaged("general.alignment is ", alignment, ", not a power of two");

    for (uint64_t i = 0; i < tensors; i++) {
        const std::string tensor = r.name("a tensor's name", kMaxName);
        TensorEntry e;
        const auto dimensions = r.number<uint32_t>("a number of dimensions");
        if (dimensions < 1 || dimensions > kMaxDimensions) r.damaged("tensor ", brief(tensor), " has ", dimensions, " dimensions");
        uint64_t elements = 1;
        for (uint32_t d = 0; d < dimensions; d++) {
            const auto n = r.number<uint64_t>("a dimension");
            if (n < 1 || n > uint64_t(INT64_MAX) || __builtin_mul_overflow(elements, n, &elements) || elements > uint64_t(1) << 62)
                r.damaged("tensor ", brief(tensor), " has a dimension of ", n);
            e.shape.insert(e.shape.begin(), int64_t(n));
        }
        const auto number = r.number<uint32_t>("a tensor's type"), end = uint32_t(std::size(kTypes));
        uint32_t k = 0;
        while (k < end && kTypes[k].number != number) k++;
        if (k == end) fail(Exit::bad_weights, name, ": tensor ", brief(tensor), " has the type ", number, ", which is unknown");
        const KnownType& type = kTypes[k];
        e.dtype = type.name;
        if (uint64_t(e.shape.back()) % type.values) r.damaged("a row of tensor ", brief(tensor), " has ", e.shape.back(), " values, ", type.name, " has blocks of ", type.values);
        const auto begin = r.number<uint64_t>("an offset");
        uint64_t stop;
        if (__builtin_mul_overflow(elements / type.values, uint64_t(type.bytes), &stop) || __builtin_add_overflow(begin, stop, &stop) || stop > bytes.size())
            r.damaged("tensor ", brief(tensor), " (", type.name, Shape(e.shape), ") at byte ", begin, " of the values ends behind the file: it is cut short");
        if (begin % alignment) r.damaged("tensor ", brief(tensor), " begins at byte ", begin, ", not a multiple of ", alignment);
        e.begin = begin, e.end = stop;
        if (!g.tensors_.emplace(tensor, e).second) r.damaged("tensor ", brief(tensor), " is there twice");
    }
    const size_t start = std::min<size_t>(bytes.size(), (r.at() + alignment - 1) / alignment * alignment);
    g.data_ = bytes.subspan(start);
    std::vector<std::pair<const std::string, TensorEntry>*> order;
    for (auto& entry : g.tensors_) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->second.begin < b->second.begin; });
    size_t at = 0;
    for (const auto* entry : order) {
        if (entry->second.begin < at) r.damaged("tensor ", brief(entry->first), " overlaps another");
        at = entry->second.end;
        if (at > g.data_.size()) r.damaged("tensor ", brief(entry->first), " ends ", at - g.data_.size(), " bytes behind the file: it is cut short");
    }
    return g;
}

// ---- metadata

template <class... A> [[noreturn]] void Gguf::bad(const std::string& key, const A&... what) const { fail(Exit::bad_weights, path_, ": ", brief(key), " ", what...); }

const Gguf::Value* Gguf::find(const std::string& key, const char* wanted, bool (*fits)(const Value&)) const {
    const auto found = fields_.find(key);
    if (found == fields_.end()) return nullptr;
    const Value& v = found->second;
    if (!fits(v)) bad(key, "is ", v.type == kArray ? concat("an array of ", kValueNames[v.element]) : kValueNames[v.type], "; ", wanted, " is expected");
    return &v;
}
int64_t Gguf::integer(const std::string& key, int64_t least, int64_t most, std::optional<int64_t> fallback) const {
    const Value* v = find(key, "a whole number", [](const Value& v) { return is_integer(v.type); });
    if (!v && fallback) return *fallback;
    if (!v) bad(key, "is missing; a whole number is expected");
    const int64_t n = integer_at(v->type, v->bytes.data());
    if (n < least || n > most) bad(key, "is ", n, "; a whole number from ", least, " to ", most, " is expected");
    return n;
}
double Gguf::number(const std::string& key, double least, double most, std::optional<double> fallback) const {
    const Value* v = find(key, "a number", [](const Value& v) { return is_integer(v.type) || v.type == kF32 || v.type == kF64; });
    if (!v && fallback) return *fallback;
    if (!v) bad(key, "is missing; a number is expected");
    const double n = number_at(v->type, v->bytes.data());
    if (!(n >= least && n <= most)) bad(key, "is ", n, "; a number from ", least, " to ", most, " is expected");
    return n;
}
bool Gguf::boolean(const std::string& key, bool fallback) const {
    const Value* v = find(key, "true or false", [](const Value& v) { return v.type == kBool; });
    return v ? load_unaligned<uint8_t>(v->bytes.data()) != 0 : fallback;
}
std::string Gguf::text(const std::string& key, std::optional<std::string> fallback) const {
    const Value* v = find(key, "a text", [](const Value& v) { return v.type == kString; });
    if (!v && !fallback) bad(key, "is missing; a text is expected");
    return v ? valid_utf8(text_of(v->bytes)) : *fallback;
}
std::vector<std::string_view> Gguf::texts(const std::string& key) const {
    const Value* v = find(key, "an array of texts", [](const Value& v) { return v.type == kArray && v.element == kString; });
    std::vector<std::string_view> all;
    if (!v) return all;
    all.reserve(v->count);
    Reader r(v->bytes, path_);
    for (uint64_t i = 0; i < v->count; i++) all.push_back(r.text("a string"));
    return all;
}
std::vector<float> Gguf::numbers(const std::string& key) const {
    const Value* v = find(key, "an array of f32", [](const Value& v) { return v.type == kArray && v.element == kF32; });
    std::vector<float> all(v ? v->count : 0);
    if (v && v->count) std::memcpy(all.data(), v->bytes.data(), v->bytes.size());
    return all;
}
std::vector<int32_t> Gguf::integers(const std::string& key) const {
    const Value* v = find(key, "an array of i32", [](const Value& v) { return v.type == kArray && (v.element == kI32 || v.element == kU32); });
    std::vector<int32_t> all(v ? v->count : 0);
    if (v && v->count) std::memcpy(all.data(), v->bytes.data(), v->bytes.size());
    return all;
}

std::map<std::string, std::string> Gguf::metadata() const {
    std::map<std::string, std::string> all;
    for (const auto& [key, v] : fields_) {
        if (v.type == kArray) all[key] = concat("[", v.count, " ", kValueNames[v.element], "]");
        else if (v.type == kString) all[key] = valid_utf8(text_of(v.bytes));
        else if (v.type == kBool) all[key] = load_unaligned<uint8_t>(v.bytes.data()) ? "true" : "false";
        else if (is_integer(v.type)) all[key] = concat(integer_at(v.type, v.bytes.data()));
        else all[key] = concat(number_at(v.type, v.bytes.data()));
    }
    return all;
}

// ---- tensors

size_t Gguf::bytes_read(const std::string& name) const {
    const TensorEntry& e = tensors_.at(name);
    return size_t(Shape(e.shape).numel()) * (e.dtype == "BF16" ? 2 : 4);
}

Tensor Gguf::tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    CHECK(found != tensors_.end(), path_, ": no tensor ", brief(name));
    const TensorEntry& e = found->second;
    const Shape shape{std::span<const int64_t>(e.shape)};
    const std::byte* at = data_.data() + e.begin;
    if (std::none_of(std::begin(kReadable), std::end(kReadable), [&](const char* t) { return e.dtype == t; }))
        fail(Exit::bad_weights, path_, ": tensor ", brief(name), " is of the type ", e.dtype, ", which is not supported; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are");
    if (e.dtype == "F32" || e.dtype == "BF16") {
        const DType dtype = e.dtype == "F32" ? DType::f32 : DType::bf16;
        if (keep_ && reinterpret_cast<uintptr_t>(at) % size_t(size_of(dtype)) == 0)
            return Tensor::view(Storage::borrow(const_cast<std::byte*>(at), e.end - e.begin, keep_), shape, dtype);
        Tensor t(shape, dtype);
        std::memcpy(t.raw(), at, t.bytes());
        return t;
    }
    Tensor t(shape);
    const int64_t rows = t.rows(), n = shape[-1];
    const size_t row_bytes = (e.end - e.begin) / size_t(rows);
    float* out = t.data<float>();
    #pragma omp parallel for if (t.numel() > 1 << 16)
    for (int64_t r = 0; r < rows; r++) read_row(e.dtype, at + size_t(r) * row_bytes, n, out + r * n);
    return t;
}

}
