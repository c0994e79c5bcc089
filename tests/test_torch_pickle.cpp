// weights/torch_pickle, pickle and zip: what torch wrote is read to the bit, what somebody else wrote is refused before it costs anything.
#include "tests/run_program.h"
#include <algorithm>
#include <cstring>
#include "weights/checkpoint.h"
#include "weights/hash.h"
#include "weights/torch_pickle.h"
#include "weights/zip.h"

using namespace merv;
using namespace merv::test;

namespace {

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }
std::string values(const TensorFile& file, const std::string& name) {
    const TensorEntry& e = file.entries().at(name);
    std::string text(e.end - e.begin, '\0');
    file.read(name, 0, text.size(), reinterpret_cast<std::byte*>(text.data()));
    return text;
}
void expect_same(const TensorFile& got, const TensorFile& want) {
    EXPECT_EQ(got.entries().size(), want.entries().size());
    for (const auto& [name, e] : want.entries()) {
        CAPTURE(name);
        REQUIRE_EQ(got.entries().count(name), 1);
        EXPECT_EQ(got.entries().at(name).dtype, e.dtype);
        EXPECT(got.entries().at(name).shape == e.shape);
        EXPECT(values(got, name) == values(want, name));
        got.check(name);
    }
}

// ---- files made by hand

template <class T> std::string le(T v) {
    std::string s;
    for (size_t i = 0; i < sizeof v; i++) s += char(uint64_t(v) >> 8 * i);
    return s;
}
struct Entry {
    std::string name, data;
    uint16_t method = 0, flags = 0;
    uint32_t crc = 0;                           // 0: the right one
    std::string extra = "", local_name = "";    // of the local header
};
struct Numbers {                                // what the directory says instead of the truth; -1: the truth
    int64_t size = -1, packed = -1, offset = -1, directory = -1, count = -1, directory_bytes = -1;
};
uint32_t crc_of(const std::string& s) {
    Crc32 crc;
    crc.add(bytes_of(s));
    return crc.value();
}
// `lie` is about the last entry. zip64: all sizes and offsets stand in the 64-bit records.
std::string zip(const std::vector<Entry>& entries, Numbers lie = {}, bool zip64 = false) {
    std::string file, directory;
    for (size_t i = 0; i < entries.size(); i++) {
        const Entry& e = entries[i];
        const bool last = i + 1 == entries.size();
        const uint64_t offset = last && lie.offset >= 0 ? uint64_t(lie.offset) : file.size(), size = last && lie.size >= 0 ? uint64_t(lie.size) : e.data.size();
        const uint64_t packed = last && lie.packed >= 0 ? uint64_t(lie.packed) : last && lie.size >= 0 ? uint64_t(lie.size) : e.data.size();
        const std::string name = e.local_name.empty() ? e.name : e.local_name;
        file += "PK\x03\x04" + le<uint16_t>(45) + le<uint16_t>(8 | e.flags) + le(e.method) + std::string(16, '\0') + le(uint16_t(name.size())) + le(uint16_t(e.extra.size())) + name + e.extra + e.data;
        const std::string wide = zip64 ? le<uint16_t>(1) + le<uint16_t>(24) + le(size) + le(packed) + le(offset) : "";
        directory += "PK\x01\x02" + le<uint32_t>(45 << 16 | 45) + le(uint16_t(8 | e.flags)) + le(e.method) + le<uint32_t>(0) + le(e.crc ? e.crc : crc_of(e.data)) +
                     le(zip64 ? UINT32_MAX : uint32_t(packed)) + le(zip64 ? UINT32_MAX : uint32_t(size)) + le(uint16_t(e.name.size())) + le(uint16_t(wide.size())) +
                     std::string(10, '\0') + le(zip64 ? UINT32_MAX : uint32_t(offset)) + e.name + wide;
    }
    const uint64_t at = lie.directory >= 0 ? uint64_t(lie.directory) : file.size(), count = lie.count >= 0 ? uint64_t(lie.count) : entries.size();
    const uint64_t directory_bytes = lie.directory_bytes >= 0 ? uint64_t(lie.directory_bytes) : directory.size();
    file += directory;
    if (zip64) {
        const uint64_t record = file.size();
        file += "PK\x06\x06" + le<uint64_t>(44) + le<uint32_t>(45 << 16 | 45) + le<uint64_t>(0) + le(count) + le(count) + le(directory_bytes) + le(at);
        file += "PK\x06\x07" + le<uint32_t>(0) + le(record) + le<uint32_t>(1);
    }
    return file + "PK\x05\x06" + le<uint32_t>(0) + (zip64 ? std::string(12, '\xff') : le(uint16_t(count)) + le(uint16_t(count)) + le(uint32_t(directory_bytes)) + le(uint32_t(at))) + le<uint16_t>(0);
}

const std::string kProto = "\x80\x02", kNone = "N", kFalse = "\x89", kStop = ".";
std::string text(const std::string& s) { return "X" + le(uint32_t(s.size())) + s; }
std::string integer(int64_t v) { return "\x8a\x08" + le(v); }
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string tuple(const std::string& items) { return "(" + items + "t"; }
std::string integers(const std::vector<int64_t>& all) {
    std::string s;
    for (const int64_t v : all) s += integer(v);
    return tuple(s);
}
std::string storage(const std::string& type, const std::string& key, int64_t elements) {
    return tuple(text("storage") + global("torch", type) + text(key) + text("cpu") + integer(elements)) + "Q";
}
std::string tensor(const std::string& from, int64_t offset, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
    return global("torch._utils", "_rebuild_tensor_v2") + tuple(from + integer(offset) + integers(sizes) + integers(strides) + kFalse + global("collections", "OrderedDict") + ")R") + "R";
}
std::string dict(const std::string& name, const std::string& value) { return "}" + text(name) + value + "s"; }
std::string archive(const std::string& object, const std::string& data = std::string(16, 'a')) {
    return zip({{"a/data.pkl", kProto + object + kStop}, {"a/data/0", data}, {"a/version", "3\n"}});
}
std::string one(int64_t elements, int64_t offset, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, const std::string& type = "FloatStorage") {
    return archive(dict("w", tensor(storage(type, "0", elements), offset, sizes, strides)));
}
std::string legacy(const std::string& object, const std::string& keys, const std::string& data) {
    const std::string info = dict("protocol_version", integer(1001)) + text("little_endian") + "\x88" + "s";
    return std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e", 15) + kProto + "M\xe9\x03." + kProto + info + kStop + kProto + object + kStop + kProto + keys + kStop + data;
}

std::string refusal(const std::string& file) {
    try {
        TorchFile::parse(bytes_of(file), "x.pt");
    } catch (const Error& e) {
        EXPECT(e.code == Exit::bad_weights);
        EXPECT(std::string(e.what()).starts_with("x.pt: "));
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
        return e.what();
    }
    return "";
}
#define EXPECT_REFUSED(file, part) do { const std::string message = refusal(file); EXPECT_MESSAGE(message.find(part) != message.npos, "got '", message, "' instead of '", part, "'"); } while (0)

}

TEST_CASE("torch files: zip, legacy and protocol 4 hold what torch put in, views of shared storages included") {
    const auto want = TensorFile::open(golden("torch/expected.safetensors"));
    for (const char* name : {"zip", "legacy", "protocol4"}) {
        CAPTURE(name);
        const auto got = TensorFile::open(golden(concat("torch/", name, ".pt")));
        expect_same(*got, *want);
        EXPECT(to_floats(got->tensor("model.transposed")) == to_floats(want->tensor("model.transposed")));
        EXPECT_THROWS_WITH_AS(got->tensor("model.i64"), doctest::Contains("tensor model.i64 holds 1099511627776, which does not fit 32 bits"), Error);
    }
    const auto script = TensorFile::open(golden("torch/script.pt"));
    expect_same(*script, *TensorFile::open(golden("torch/script.safetensors")));
    EXPECT_EQ(script->metadata().at("container"), "TorchScript archive");
    expect_same(*TensorFile::open(golden("torch/f8.pt")), *TensorFile::open(golden("torch/f8.safetensors")));
}

TEST_CASE("torch files: packed values are used where they lie, the others are gathered, any piece alone") {
    const auto file = TensorFile::open(golden("torch/zip.pt"));
    const size_t before = memory_by_tag()["torch test"];
    {
        MemTag tag("torch test");
        const Tensor whole = file->tensor("model.whole"), rows = file->tensor("model.rows");
        EXPECT(rows.raw() == whole.raw() + 12 * sizeof(float));          // one storage, one mapping
    }
    EXPECT_EQ(memory_by_tag()["torch test"], before);
    for (const char* name : {"model.permuted", "model.stepped", "model.bf16_transposed", "model.whole"}) {
        CAPTURE(name);
        const std::string all = values(*file, name);
        const size_t element = dtype_bytes(file->entries().at(name).dtype);
        for (size_t begin = 0; begin < all.size(); begin += 3 * element)
            for (size_t end = begin; end <= all.size(); end += 5 * element) {
                std::string piece(end - begin, '\0');
                file->read(name, begin, end, reinterpret_cast<std::byte*>(piece.data()));
                REQUIRE(piece == all.substr(begin, end - begin));
            }
        file->forget(name);
        EXPECT(values(*file, name) == all);
    }
    EXPECT_THROWS_WITH_AS(file->tensor("model.c64"), doctest::Contains("tensor model.c64 has the dtype C64; F32, BF16"), Error);
    EXPECT_THROWS_WITH_AS(file->tensor("model.f64"), doctest::Contains("tensor model.f64 has the dtype F64"), Error);
}

TEST_CASE("torch files: the examples made with torch 1.13") {
    for (const char* name : {"torch_zip_example.pt", "torch_legacy_example.pt"}) {
        const std::string path = shared(concat("data/vectors/", name));
        if (path.empty()) return;
        const auto f = TensorFile::open(path);
        EXPECT_EQ(f->entries().size(), 11);
        EXPECT(to_floats(f->tensor("t")) == std::vector<float>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
        EXPECT(to_floats(f->tensor("v")) == std::vector<float>{1, 2, 5, 6, 9, 10});
        EXPECT_EQ(f->tensor("i").data<int32_t>()[0], 5);
        EXPECT_EQ(f->tensor("h").data<float>()[1], 1);
    }
    const std::string script = shared("data/vectors/torchscript_example.pt");
    if (!script.empty()) EXPECT_EQ(TensorFile::open(script)->entries().count("fc.weight"), 1);
}

TEST_CASE("torch files: what torch can save and we do not need is refused by name") {
    auto message = [](const char* file) -> std::string {
        try { TensorFile::open(golden(concat("torch/refused_", file, ".pt"))); } catch (const Error& e) { return e.what(); }
        return "";
    };
    auto says = [&](const char* file, const char* part) { EXPECT_MESSAGE(message(file).find(part) != std::string::npos, message(file)); };
    says("complex128", "tensor w has the type torch.ComplexDoubleStorage, which is not supported");
    says("sparse", "asks for torch._utils._rebuild_sparse_tensor, which tensors do not need; nothing was run");
    says("quantised", "asks for torch._utils._rebuild_qtensor,");
    says("module", "asks for torch.nn.modules.linear.Linear,");
    says("rank7", "tensor w has 7 dimensions; at most 6");
}

TEST_CASE("torch files: made by hand they are read, so what follows is refused for its reason") {
    const std::string good = one(4, 0, {2, 2}, {2, 1});
    const auto f = TorchFile::parse(bytes_of(good), "x.pt");
    EXPECT_EQ(values(*f, "w"), std::string(16, 'a'));
    const std::string w = dict("w", tensor(storage("FloatStorage", "0", 4), 0, {4}, {1}));
    for (const bool wide : {false, true}) EXPECT_EQ(refusal(zip({{"a/data.pkl", kProto + w + kStop}, {"a/data/0", std::string(16, 'a')}}, {}, wide)), "");
    EXPECT_EQ(refusal(zip({{"a/data.pkl", kProto + w + kStop, 0, 0, 0, std::string(37, 'Z')}, {"a/data/0", std::string(16, 'a')}})), "");       // padded
    EXPECT_EQ(refusal(legacy(w, "]" + text("0") + "a", le<int64_t>(4) + std::string(16, 'a'))), "");
    EXPECT_EQ(refusal(archive("}")), "");
    EXPECT_EQ(refusal(archive(global("collections", "OrderedDict") + tuple("](" + text("w") + kNone + "ta") + "R")), "");      // Python 2's
    const std::string view = tuple(text("storage") + global("torch", "FloatStorage") + text("0") + text("cpu") + integer(4) + tuple(text("v") + integer(1) + integer(2))) + "Q";
    const std::string viewed = legacy(dict("w", tensor(view, 1, {1}, {1})), "]" + text("0") + "a", le<int64_t>(4) + "aaaabbbbccccdddd");
    EXPECT_EQ(values(*TorchFile::parse(bytes_of(viewed), "x.pt"), "w"), "cccc");
}

TEST_CASE("pickles that would run something are refused with the full name of what they ask for") {
    const std::string command = tuple(text("touch /tmp/owned"));
    const std::vector<std::pair<std::string, std::string>> hostile = {
        {global("os", "system") + command + "R", "asks for os.system, which"},
        {global("posix", "system") + command + "R", "asks for posix.system, which"},
        {text("posix") + text("system") + "\x93" + command + "R", "asks for posix.system, which"},
        {global("builtins", "eval") + command + "R", "asks for builtins.eval, which"},
        {global("__builtin__", "exec") + command + "R", "asks for __builtin__.exec, which"},
        {global("subprocess", "Popen") + command + "\x81", "asks for subprocess.Popen, which"},
        {global("torch", "load") + command + "R", "asks for torch.load, which"},
        {global("torch._utils", "_rebuild_tensor_v2\x1b[31m") + command + "R", "asks for torch._utils._rebuild_tensor_v2\xEF\xBF\xBD[31m, which"},
        {text("torch") + text("FloatStorage\nos.system") + "\x93", "asks for torch.FloatStorage os.system, which"},
        {text("collections") + text("OrderedDict.__reduce__") + "\x93", "asks for collections.OrderedDict.__reduce__, which"},
        {global("__torch__.a", "B") + ")\x81", "asks for __torch__.a.B, which"},        // only in a TorchScript archive
        {"P0\n", "the opcode 80, which"}, {"i" "os\nsystem\n", "the opcode 105, which"}, {"o", "the opcode 111, which"}, {"\x82\x01", "the opcode 130, which"},
        {"S'a'\n", "the opcode 83, which"}, {"\x92", "the opcode 146, which"}, {"2", "the opcode 50, which"}, {"0", "the opcode 48, which"},
        {global("torch", "FloatStorage") + command + "R", "a call of FloatStorage, which is a type"},
        {text("os.system") + command + "R", "a call of something that is no function"},
        {global("collections", "OrderedDict") + text("x") + "R", "a call whose arguments are no tuple"},
        {tuple(text("module") + global("torch", "Size") + text("a.py") + text("import os")) + "Q", "holds a whole pickled module, which is code"},
        {tuple(text("file") + text("/etc/passwd") + kNone + kNone + kNone) + "Q", "a persistent id that is not torch's: file"},
        {global("torch", "Size") + ")\x81" + dict("__class__", kNone) + "b", "a call with 0 arguments"},
        {"]" + dict("x", kNone) + "b", "attributes of something that has none"},
    };
    TempDir dir;
    for (const auto& [object, part] : hostile) {
        CAPTURE(part);
        EXPECT_REFUSED(archive(object), part);
        EXPECT_REFUSED(legacy(object, "]", ""), part);
    }
    for (size_t i = 0; i < 4; i++) {            // and as a user sees it
        write_file(dir / "x.bin", archive(hostile[i].first));
        const Run r = run_program(built("merv-weights"), {"inspect", dir / "x.bin"});
        EXPECT_EQ(r.code, 4);
        EXPECT_EQ(r.out, "");
        EXPECT(r.err.starts_with("merv-weights: error: "));
        EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1);
        EXPECT_MESSAGE(r.err.find(hostile[i].second) != r.err.npos, r.err);
    }
    EXPECT_FALSE(std::filesystem::exists("/tmp/owned"));
}

TEST_CASE("pickles whose machine would run over") {
    EXPECT_REFUSED(archive("a"), "a value is taken from an empty stack");
    EXPECT_REFUSED(archive("N("), "a value is taken from an empty stack");
    EXPECT_REFUSED(archive("(N(t"), "it stops with values left over");
    EXPECT_REFUSED(archive("t"), "no mark");
    EXPECT_REFUSED(archive("NN"), "values left over");
    EXPECT_REFUSED(archive(std::string(100'000, '(')), "nested deeper than 1000 levels");
    EXPECT_REFUSED(archive(std::string(2'000'000, 'N')), "more than 1048576 values");
    EXPECT_REFUSED(archive("N" + std::string(100'000, '\x85')), "nested deeper than 64 levels");
    std::string nested;                         // {"a": {"a": ...}}
    for (int i = 0; i < 500; i++) nested += concat("}", text("a"));
    EXPECT_REFUSED(archive(nested + "N" + std::string(500, 's')), "nested deeper than 64 levels");
    EXPECT_REFUSED(archive("}q\x01" + text("a") + "h\x01s"), "nested deeper than 64 levels, or inside itself");
    std::string shared_twice = "]";             // a list of dicts, each of which holds the one before it twice
    for (int i = 0; i < 60; i++) {
        const std::string below = i ? concat("h", char(i - 1)) : "N";
        shared_twice += "}q" + std::string(1, char(i)) + text("a") + below + "s" + text("b") + below + "sa";
    }
    EXPECT_REFUSED(archive(shared_twice), "more than 4194304 values, counting shared ones each time");
    EXPECT_REFUSED(archive("Nr" + le<uint32_t>(4'000'000'000u)), "the memo's slot 4000000000; at most 1048576");
    EXPECT_REFUSED(archive("h\x05"), "nothing was stored in the memo's slot 5");
    EXPECT_REFUSED(archive("Nq\x07h\x05"), "nothing was stored in the memo's slot 5");
    EXPECT_REFUSED(archive("X" + le<uint32_t>(UINT32_MAX)), "the file is cut short");
    EXPECT_REFUSED(archive("\x8d" + le<uint64_t>(UINT64_MAX)), "18446744073709551615 more are wanted");
    EXPECT_REFUSED(archive("\x95" + le<uint64_t>(1 << 30)), "a frame of 1073741824 bytes");
    EXPECT_REFUSED(archive("\x8a\x09" + std::string(9, 'a')), "an integer of 9 bytes");
    EXPECT_REFUSED(archive("c" + std::string(2000, 'a') + "\n"), "a name of more than 1000 bytes");
    EXPECT_REFUSED(archive("\x80\x07N"), "pickle protocol 7");
    EXPECT_REFUSED(archive("}(Nu"), "a key without a value");
    EXPECT_REFUSED(archive("](NNu"), "items for something that is no dict");
    EXPECT_REFUSED(archive("N."), "1 bytes after the pickle's end");
    EXPECT_REFUSED(zip({{"a/data.pkl", kProto + "N"}}), "it ends at byte 3");
    std::string pairs = "](";                   // OrderedDict(list) copies the list, each time it is called
    for (int i = 0; i < 1000; i++) pairs += "NN\x86";
    pairs += "eq\x01" + global("collections", "OrderedDict") + "q\x02";
    for (int i = 0; i < 1000; i++) pairs += "h\x02h\x01\x85R";
    EXPECT_REFUSED(archive(pairs), "more than 1048576 items");
}

TEST_CASE("tensors that leave their storage, or sizes that run over, are refused before anything is made") {
    const int64_t big = INT64_MAX;
    EXPECT_EQ(refusal(one(4, 0, {4}, {1})), "");
    EXPECT_EQ(refusal(one(4, 3, {}, {})), "");
    EXPECT_EQ(refusal(one(4, 9, {0, 7}, {1, 1})), "");                   // nothing in it: nothing is read
    EXPECT_REFUSED(one(4, 0, {5}, {1}), "tensor w leaves its storage: it needs element 4 of 4");
    EXPECT_REFUSED(one(4, 1, {2, 2}, {2, 1}), "it needs element 4 of 4");
    EXPECT_REFUSED(one(4, 4, {}, {}), "it needs element 4 of 4");
    EXPECT_REFUSED(one(4, -1, {1}, {1}), "tensor w begins before its storage");
    EXPECT_REFUSED(one(4, 0, {-1}, {1}), "tensor w has a negative number, -1, in its sizes");
    EXPECT_REFUSED(one(4, 3, {2}, {-1}), "tensor w has a negative number, -1, in its strides");
    EXPECT_REFUSED(one(4, 0, {big}, {1}), "tensor w has more than 2^62 elements");
    EXPECT_REFUSED(one(4, 0, {1 << 30, 1 << 30, 1 << 30}, {1, 1, 1}), "more than 2^62 elements");
    EXPECT_REFUSED(one(4, 0, {int64_t(1) << 62}, {0}), "tensor w has more than 2^64 bytes");
    EXPECT_REFUSED(one(4, 0, {int64_t(1) << 40}, {0}), "tensor w repeats 4 values to 4398046511104 bytes; save a copy");
    EXPECT_REFUSED(one(4, 0, {0, big, big}, {1, 1, 1}), "more than 2^62 elements");
    EXPECT_REFUSED(one(4, 0, {3}, {big}), "tensor w leaves its storage");
    EXPECT_REFUSED(one(4, big, {2}, {big}), "tensor w leaves its storage");
    EXPECT_REFUSED(one(4, 0, {2}, {1, 1}), "1 sizes and 2 strides");
    EXPECT_REFUSED(one(5, 0, {4}, {1}), "the storage 0 has 16 bytes, the pickle says 20");
    EXPECT_REFUSED(one(big, 0, {4}, {1}), "a storage of 9223372036854775807 elements");
    EXPECT_REFUSED(one(-4, 0, {4}, {1}), "a storage of -4 elements");
    EXPECT_REFUSED(one(4, 0, {4}, {1}, "DoubleStorage"), "the storage 0 has 16 bytes, the pickle says 32");
    EXPECT_REFUSED(one(4, 0, {4}, {1}, "QInt8Storage"), "tensor w has the type torch.QInt8Storage, which is not supported");
    EXPECT_REFUSED(one(4, 0, {4}, {1}, "Size"), "tensor w has no type");
    const std::string four = storage("FloatStorage", "0", 4);
    EXPECT_REFUSED(archive(dict("w", tensor(storage("FloatStorage", "../../etc/passwd", 4), 0, {4}, {1}))), "the entry a/data/../../etc/passwd is missing");
    EXPECT_REFUSED(archive(dict("w", tensor(kNone, 0, {4}, {1}))), "tensor w has no storage");
    EXPECT_REFUSED(archive(dict("w", global("torch._utils", "_rebuild_tensor_v2") + tuple(four) + "R")), "a call with 1 arguments");
    EXPECT_REFUSED(archive(dict("w", global("torch._utils", "_rebuild_tensor_v2") + tuple(four + kNone + "))") + "R")), "tensor w begins before its storage");
    EXPECT_REFUSED(archive(dict("w", global("torch._utils", "_rebuild_tensor_v2") + tuple(four + integer(0) + tuple(kNone) + tuple(kNone)) + "R")), "its sizes are no whole numbers");
    const std::string w = tensor(four, 0, {4}, {1});
    EXPECT_REFUSED(archive("}" + text("a.b") + w + "s" + text("a") + dict("b", w) + "s"), "the name a.b is there twice");
    EXPECT_REFUSED(archive(dict("\xff", w)), "a tensor's name is not usable");
    EXPECT_REFUSED(archive(dict("__metadata__", w)), "a tensor's name is not usable");
    EXPECT_REFUSED(archive(dict(std::string(1500, 'a'), w)), "the names are too long");
    // legacy: bytes after the pickles
    const std::string zero = "]" + text("0") + "a", data(16, 'a');
    EXPECT_REFUSED(legacy(dict("w", w), zero, le<int64_t>(4) + data.substr(1)), "ends after the file: it is cut short");
    EXPECT_REFUSED(legacy(dict("w", w), zero, le<int64_t>(5) + data), "has 5 elements, the pickle says 4");
    EXPECT_REFUSED(legacy(dict("w", w), zero, "abc"), "it ends before the storage 0");
    EXPECT_REFUSED(legacy(dict("w", w), zero, le<int64_t>(4) + data + "a"), "1 bytes after the last storage");
    EXPECT_REFUSED(legacy(dict("w", w), "]", ""), "the storage 0 is missing");
    EXPECT_REFUSED(legacy(dict("w", w), "]" + text("1") + "a", ""), "bytes for a storage that no tensor has");
    EXPECT_REFUSED(legacy(dict("w", w), zero + text("0") + "a", le<int64_t>(4) + data + le<int64_t>(4) + data), "the storage 0 is there twice");
    EXPECT_REFUSED(legacy(dict("w", w), "N", ""), "its list of storages is no list");
    EXPECT_REFUSED(legacy(dict("w", tensor(storage("FloatStorage", "0", INT64_MAX), 0, {4}, {1})), zero, le<int64_t>(INT64_MAX)), "a storage of 9223372036854775807 elements");
}

TEST_CASE("zip archives that lie") {
    const std::string pickle = kProto + dict("w", tensor(storage("FloatStorage", "0", 4), 0, {4}, {1})) + kStop, data(16, 'a');
    const Entry p{"a/data.pkl", pickle}, d{"a/data/0", data};
    const std::string good = zip({p, d});
    EXPECT_EQ(refusal(good), "");
    for (size_t n = 0; n < good.size(); n++) EXPECT_NE(refusal(good.substr(0, n)), "");       // cut short anywhere
    EXPECT_REFUSED("", "neither torch.save's zip archive nor its older format");
    EXPECT_REFUSED("PK\x03\x04 and so on, with no end record", "it has no directory at its end: the file is cut short");
    EXPECT_REFUSED(std::string(257, 'a') + "ustar", "the tar format of torch before 0.1.10");
    EXPECT_REFUSED(good + "x", "it has no directory at its end");
    EXPECT_REFUSED(zip({p, {.name = "a/data/0", .data = data, .method = 8}}, {.size = 100, .packed = 16}), "the entry a/data/0 is compressed; torch stores it as it is");
    EXPECT_REFUSED(zip({{.name = "a/data.pkl", .data = pickle, .method = 8}, d}), "the entry a/data.pkl is compressed");
    EXPECT_REFUSED(zip({p, {.name = "a/data/0", .data = data, .flags = 1}}), "the entry a/data/0 is encrypted");
    EXPECT_REFUSED(zip({p, d}, {.size = 17}), "the entry a/data/0, 17 bytes at ");
    EXPECT_REFUSED(zip({p, d}, {.size = 15, .packed = 16}), "has 15 bytes, stored in 16");
    EXPECT_REFUSED(zip({p, d}, {.size = 12}), "the storage 0 has 12 bytes, the pickle says 16");
    EXPECT_REFUSED(zip({p, d}, {.offset = 0}), "the entry a/data/0 has another name at its own place");
    EXPECT_REFUSED(zip({p, d}, {.offset = 7}), "no header of an entry at byte 7");
    EXPECT_REFUSED(zip({p, d}, {.offset = 0xfffffffe}), "begins at byte 4294967294, not before the directory");
    EXPECT_REFUSED(zip({p, d}, {.offset = INT64_MAX}, true), "begins at byte 9223372036854775807, not before the directory");
    EXPECT_REFUSED(zip({p, d}, {.size = INT64_MAX}, true), "the entry a/data/0, 9223372036854775807 bytes at");
    EXPECT_REFUSED(zip({p, d}, {.directory = 3}), "does not end at");
    EXPECT_REFUSED(zip({p, d}, {.directory = INT64_MAX}, true), "does not end at");
    EXPECT_REFUSED(zip({p, d}, {.count = 60'000}), "for 60000 entries");
    EXPECT_REFUSED(zip({p, d}, {.count = INT64_MAX}, true), "for 9223372036854775807 entries");
    EXPECT_REFUSED(zip({p, d}, {.count = 1}), "its entries take");
    EXPECT_REFUSED(zip({p, d}, {.directory_bytes = 10}), "does not end at");
    EXPECT_REFUSED(zip({p, d, d}), "the name a/data/0 is there twice");
    for (const char* name : {"/etc/passwd", "a/../../x", "..", "a\\x"}) EXPECT_REFUSED(zip({p, d, {name, ""}}), "leads out of the archive");
    EXPECT_REFUSED(zip({p, d, {.name = "a/x", .data = "", .local_name = "a/y"}}), "the entry a/x has another name at its own place");
    EXPECT_REFUSED(zip({p, {"b/data.pkl", pickle}, d}), "holds a/data.pkl and b/data.pkl");
    EXPECT_REFUSED(zip({{"a/weights", data}}), "not one that torch.save wrote: it holds no data.pkl");
    EXPECT_REFUSED(zip({p}), "the entry a/data/0 is missing");
    EXPECT_REFUSED(zip({p, d, {"a/byteorder", "big"}}), "its byte order is not little");
    EXPECT_REFUSED(zip({{.name = "a/data.pkl", .data = pickle, .crc = 5}, d}), "data.pkl does not have its checksum");

    // an entry inside another's data: its header is made part of that data
    const std::string inner = zip({d}), header = inner.substr(0, 30 + 8 + 16);
    std::string overlapping = zip({p, {"a/big", header + "more"}, d});
    const uint64_t at = overlapping.find(header);
    EXPECT_REFUSED(zip({p, {"a/big", header + "more"}, d}, {.offset = int64_t(at)}), "the entries a/big and a/data/0 overlap");

    const auto file = TorchFile::parse(bytes_of(good), "x.pt");
    file->check("w");
    const std::string wrong_text = zip({p, {.name = "a/data/0", .data = data, .crc = 5}});
    const auto wrong = TorchFile::parse(bytes_of(wrong_text), "x.pt");   // opening does not read gigabytes ...
    EXPECT_THROWS_WITH_AS(wrong->check("w"), doctest::Contains("the values of w do not have their checksum"), Error);
}

TEST_CASE("a model whose language model is a .bin answers as it does from safetensors") {
    TempDir dir;
    namespace fs = std::filesystem;
    fs::copy(golden("merv-tiny"), dir / "m", fs::copy_options::recursive);
    auto answer = [&] { return run_program(built("merv-ask"), {"-m", dir / "m", "--prompt", "Who are you?", "-n", "8"}); };
    const std::string before = answer().out;
    const auto file = SafeTensors::open(dir / "m/llm/model.safetensors");
    std::string all = "}";
    std::vector<Entry> entries(1);
    for (const auto& [name, e] : file->entries()) {
        const std::string key = std::to_string(entries.size() - 1), data = values(*file, name);
        std::vector<int64_t> strides(e.shape.size(), 1);
        for (size_t d = strides.size(); d-- > 1;) strides[d - 1] = strides[d] * e.shape[d];
        all += text(name) + tensor(storage("BFloat16Storage", key, int64_t(data.size() / 2)), 0, e.shape, strides) + "s";
        entries.push_back({"m/data/" + key, data});
    }
    entries[0] = {"m/data.pkl", kProto + all + kStop};
    fs::remove(dir / "m/llm/model.safetensors");
    write_file(dir / "m/llm/pytorch_model.bin", zip(entries));
    const Run r = answer();
    EXPECT_EQ(r.code, 0);
    EXPECT_NE(r.out, "");
    EXPECT_EQ(r.out, before);
}

TEST_CASE("hostile files cost no memory: the program refuses them inside 1 GB of address space") {
#if defined(__SANITIZE_ADDRESS__)
    skip("a sanitizer's shadow does not fit there");
#else
    TempDir dir;
    const std::vector<std::string> files = {
        one(4, 0, {int64_t(1) << 40}, {0}), one(INT64_MAX / 8, 0, {int64_t(1) << 40}, {1}), one(4, 0, {1 << 30, 1 << 30, 1 << 30}, {1, 1, 1}), archive("Nr" + le<uint32_t>(4'000'000'000u)),
        archive("X" + le<uint32_t>(UINT32_MAX)), archive("\x8d" + le<uint64_t>(int64_t(1) << 40)), archive(std::string(3'000'000, '(')), archive(std::string(8'000'000, ']')),
        zip({{"a/data.pkl", "N."}}, {.size = int64_t(1) << 40}, true), zip({{"a/data.pkl", "N."}}, {.count = int64_t(1) << 40}, true),
        legacy(dict("w", tensor(storage("FloatStorage", "0", int64_t(1) << 40), 0, {1}, {1})), "]" + text("0") + "a", le<int64_t>(int64_t(1) << 40))};
    for (size_t i = 0; i < files.size(); i++) {
        CAPTURE(i);
        write_file(dir / "x.pt", files[i]);
        const Run r = run_program("/bin/sh", {"-c", "ulimit -v 1000000; exec \"$0\" \"$@\"", built("merv-weights"), "inspect", dir / "x.pt"});
        EXPECT_EQ(r.code, 4);
        EXPECT_EQ(r.out, "");
        EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1);
    }
#endif
}

TEST_CASE("SHA-256 and CRC-32: the standards' own values") {
    auto sha = [](const std::string& s) {
        Sha256 h;
        for (size_t i = 0; i < s.size(); i += 7) h.add(bytes_of(s).subspan(i, std::min<size_t>(7, s.size() - i)));
        return h.hex();
    };
    EXPECT_EQ(sha(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(sha("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    EXPECT_EQ(crc_of("123456789"), 0xcbf43926u);
}
