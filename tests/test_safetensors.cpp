// weights/safetensors: what is written is read back, and every way a header can lie is refused with its own message.
#include "tests/test.h"
#include <cmath>
#include <cstring>
#include <fstream>
#include "core/log.h"
#include "weights/safetensors.h"

using namespace merv;
using test::TempDir;

static std::string file_of(const std::string& header, const std::string& data, uint64_t claimed = UINT64_MAX) {
    const uint64_t n = claimed == UINT64_MAX ? header.size() : claimed;
    std::string bytes;
    for (int i = 0; i < 8; i++) bytes += char(n >> 8 * i);
    return bytes + header + data;
}
static void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }
// The message with which these bytes are refused; empty if they are accepted.
static std::string refusal(const std::string& bytes) {
    std::map<std::string, std::string> metadata;
    try {
        parse_safetensors_header(std::as_bytes(std::span(bytes)), bytes.size(), "F", &metadata);
    } catch (const Error& e) {
        EXPECT(e.code == Exit::bad_weights);
        EXPECT(std::string(e.what()).starts_with("F: "));
        return e.what();
    }
    return "";
}
#define EXPECT_REFUSED(bytes, text) EXPECT_MESSAGE(refusal(bytes).find(text) != std::string::npos, "got '", refusal(bytes), "' instead of '", text, "'")
static std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

TEST_CASE("safetensors: written tensors come back equal, aligned and in place") {
    TempDir dir;
    const Tensor f = from_floats(std::vector<float>{1, -2, 3.5f, 0, 5, 6}, {2, 3}), b = from_floats(std::vector<float>{1, 2, 3}, {3}, DType::bf16);
    const Tensor i = from_ints(std::vector<int32_t>{1, -7}), empty(Shape{0, 4}), scalar = from_floats(std::vector<float>{42}, {});
    Tensor u({5}, DType::u8);
    std::memcpy(u.raw(), "hello", 5);
    write_safetensors(dir / "a.safetensors", {{"u", u}, {"f", f}, {"b \"quoted\" \xc3\xa9", b}, {"i", i}, {"empty", empty}, {"scalar", scalar}}, {{"format", "pt"}});
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path), {}), 1);        // no temporary file is left

    const auto file = SafeTensors::open(dir / "a.safetensors");
    EXPECT_EQ(file->entries().size(), 6);
    EXPECT_EQ(file->metadata().at("format"), "pt");
    EXPECT(to_floats(file->tensor("f")) == to_floats(f));
    EXPECT_EQ(file->tensor("f").shape(), Shape{2, 3});
    EXPECT_EQ(file->tensor("b \"quoted\" \xc3\xa9").dtype(), DType::bf16);
    EXPECT_EQ(file->tensor("i").data<int32_t>()[1], -7);
    EXPECT_EQ(std::memcmp(file->tensor("u").raw(), "hello", 5), 0);
    EXPECT_EQ(file->tensor("empty").numel(), 0);
    EXPECT_EQ(file->tensor("scalar").shape().rank(), 0);
    EXPECT_EQ(file->tensor("scalar").data<float>()[0], 42);
    EXPECT_EQ(file->tensor("f").raw(), file->tensor("f").raw());         // the same bytes, not a copy
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file->tensor("f").raw()) % 64, 0);
    EXPECT_THROWS_AS(file->tensor("absent"), std::logic_error);
}

TEST_CASE("safetensors: a tensor keeps its file mapped") {
    TempDir dir;
    write_safetensors(dir / "a.safetensors", {{"x", from_floats(std::vector<float>{7}, {1})}});
    const Tensor x = SafeTensors::open(dir / "a.safetensors")->tensor("x");
    std::filesystem::remove(dir / "a.safetensors");
    EXPECT_EQ(x.data<float>()[0], 7);
}

TEST_CASE("safetensors: unaligned values are copied, so they can be used") {
    TempDir dir;
    const float value = 1.5f;
    std::string data(1, 'u');
    data.append(reinterpret_cast<const char*>(&value), 4);
    std::string header = "{\"u\":" + entry("U8", "[1]", "[0,1]") + ",\"x\":" + entry("F32", "[1]", "[1,5]") + "}";
    while (header.size() % 8) header += ' ';
    write(dir / "a", file_of(header, data));
    const Tensor x = SafeTensors::open(dir / "a")->tensor("x");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(x.raw()) % 4, 0);
    EXPECT_EQ(x.data<float>()[0], 1.5f);
}

TEST_CASE("safetensors: every F16 value becomes the same f32") {
    TempDir dir;
    std::string data;
    for (int h = 0; h < 65536; h++) data += char(h & 255), data += char(h >> 8);
    write(dir / "a", file_of("{\"h\":" + entry("F16", "[65536]", "[0,131072]") + "}", data));
    const Tensor t = SafeTensors::open(dir / "a")->tensor("h");
    int wrong = 0;
    for (int h = 0; h < 65536; h++) {
        const int e = h >> 10 & 31, m = h & 1023;
        const double magnitude = e == 31 ? (m ? NAN : INFINITY) : e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, e - 25);
        const float got = t.data<float>()[h];
        wrong += std::isnan(magnitude) ? !std::isnan(got) : got != (h & 0x8000 ? -magnitude : magnitude) || std::signbit(got) != (h >= 0x8000);
    }
    EXPECT_EQ(wrong, 0);
}

TEST_CASE("safetensors: I64 narrows to i32 if every value fits; other dtypes are named") {
    TempDir dir;
    const int64_t ok[] = {-1, INT32_MAX}, big[] = {0, int64_t(1) << 31};
    auto file = [&](const int64_t* v) {
        write(dir / "a", file_of("{\"i\":" + entry("I64", "[2]", "[0,16]") + ",\"d\":" + entry("F64", "[0]", "[16,16]") + "}", std::string(reinterpret_cast<const char*>(v), 16)));
        return SafeTensors::open(dir / "a");
    };
    EXPECT_EQ(file(ok)->tensor("i").data<int32_t>()[0], -1);
    EXPECT_THROWS_WITH_AS(file(big)->tensor("i"), doctest::Contains("holds 2147483648, which does not fit 32 bits"), Error);
    EXPECT_THROWS_WITH_AS(file(ok)->tensor("d"), doctest::Contains("tensor d has the dtype F64"), Error);
}

TEST_CASE("safetensors: files made by the reference library are read") {
    const auto file = SafeTensors::open(test::golden("vectors/llama_gqa_tied_tiny_hfnames.safetensors"));
    EXPECT_EQ(file->entries().size(), 22);
    EXPECT_EQ(file->tensor("test.input_ids").dtype(), DType::i32);       // I64 in the file
    const Tensor logits = file->tensor("test.logits");
    for (float v : to_floats(logits)) if (!std::isfinite(v)) FAIL_CHECK("a logit is not finite");
    EXPECT_EQ(logits.dim(-1), 50);
}

TEST_CASE("safetensors: lengths that lie") {
    const std::string header = "{\"x\":" + entry("U8", "[4]", "[0,4]") + "}";
    EXPECT_EQ(refusal(file_of(header, "abcd")), "");
    EXPECT_EQ(refusal(file_of(header + "   ", "abcd")), "");             // padding
    EXPECT_REFUSED("", "only 0 bytes");
    EXPECT_REFUSED("1234567", "only 7 bytes");
    EXPECT_REFUSED(file_of(header, "abcd", 100'000'001), "a header of 100000001 bytes; at most 100000000");
    EXPECT_REFUSED(file_of(header, "abcd", UINT64_MAX - 1), "a header of 18446744073709551614 bytes");
    EXPECT_REFUSED(file_of(header, "abcd", header.size() + 5), "the file is cut short");
    EXPECT_REFUSED(file_of("", ""), "does not start with {");
    EXPECT_REFUSED(file_of(header, "abc"), "tensor x ends at byte 4 of 3: the file is cut short");
    EXPECT_REFUSED(file_of(header, "abcde"), "1 bytes after the last tensor");
    EXPECT_REFUSED(file_of("{}", "a"), "1 bytes after the last tensor");
    EXPECT_EQ(refusal(file_of("{}", "")), "");
}

TEST_CASE("safetensors: headers that are not the format's JSON") {
    const std::string x = entry("U8", "[1]", "[0,1]");
    EXPECT_REFUSED(file_of(" {}", ""), "does not start with {");
    EXPECT_REFUSED(file_of("[]", ""), "does not start with {");
    EXPECT_REFUSED(file_of("{", ""), "not JSON");
    EXPECT_REFUSED(file_of("{}x", ""), "not JSON");
    EXPECT_REFUSED(file_of(std::string("{}\0{", 4), ""), "a zero byte in the header");
    EXPECT_REFUSED(file_of("{\"\xff\":" + x + "}", "a"), "not JSON");
    EXPECT_REFUSED(file_of("{\"x\":" + x + ",\"x\":" + x + "}", "a"), "the name x is there twice");
    EXPECT_REFUSED(file_of("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "the name __metadata__ is there twice");
    EXPECT_REFUSED(file_of("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", ""), "the field a of __metadata__ is there twice");
    EXPECT_REFUSED(file_of("{\"__metadata__\":{\"a\":1}}", ""), "__metadata__ holds a number at a; only strings");
    EXPECT_REFUSED(file_of("{\"__metadata__\":{\"a\":{}}}", ""), "__metadata__ holds an object");
    EXPECT_REFUSED(file_of("{\"__metadata__\":[]}", ""), "tensor __metadata__ is described by a list");
    EXPECT_REFUSED(file_of("{\"x\":1}", ""), "tensor x is described by a number");
    EXPECT_REFUSED(file_of("{\"x\":null}", ""), "tensor x is described by null");
    EXPECT_REFUSED(file_of("{\"x\":{}}", ""), "tensor x has no dtype");
    EXPECT_REFUSED(file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":[1]}}", "a"), "tensor x has no data_offsets");
    EXPECT_REFUSED(file_of("{\"x\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "a"), "the field dtype of x is there twice");
    EXPECT_REFUSED(file_of("{\"x\":{\"stride\":1}}", "a"), "tensor x has an unknown field stride");
    EXPECT_REFUSED(file_of("{\"x\":{\"dtype\":7}}", "a"), "tensor x has a number for dtype");
    EXPECT_REFUSED(file_of("{\"x\":{\"shape\":{\"a\":1}}}", "a"), "tensor x has an object for shape");
    EXPECT_REFUSED(file_of("{\"x\":" + std::string(200000, '['), ""), "tensor x is described by a list");
}

TEST_CASE("safetensors: shapes, dtypes and offsets that lie") {
    auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets, size_t data = 4) {
        return file_of("{\"x\":" + entry(dtype, shape, offsets) + "}", std::string(data, 'a'));
    };
    EXPECT_EQ(refusal(one("F32", "[]", "[0,4]")), "");                   // a scalar
    EXPECT_EQ(refusal(one("F32", "[0,9223372036854775807]", "[0,0]", 0)), "");
    EXPECT_REFUSED(one("F4", "[4]", "[0,4]"), "has the dtype F4, which is not supported");
    EXPECT_REFUSED(one("F32", "[2]", "[0,4]"), "tensor x has 4 bytes where F32(2) takes 8");
    EXPECT_REFUSED(one("F32", "[-1]", "[0,4]"), "tensor x has a negative number in shape");
    EXPECT_REFUSED(one("F32", "[1.0]", "[0,4]"), "that is not a 64-bit integer in shape");
    EXPECT_REFUSED(one("F32", "[\"1\"]", "[0,4]"), "tensor x has a string in shape");
    EXPECT_REFUSED(one("F32", "[[1]]", "[0,4]"), "tensor x has a list in shape");
    EXPECT_REFUSED(one("F32", "[9223372036854775808]", "[0,4]"), "a dimension of 9223372036854775808");
    EXPECT_REFUSED(one("F32", "[99999999999999999999]", "[0,4]"), "that is not a 64-bit integer in shape");
    EXPECT_REFUSED(one("F32", "[1e999]", "[0,4]"), "not JSON");
    EXPECT_REFUSED(one("F32", "[NaN]", "[0,4]"), "not JSON");
    EXPECT_REFUSED(one("F32", "[4294967296,4294967296]", "[0,0]"), "more than 2^62 elements");
    EXPECT_REFUSED(one("F64", "[4611686018427387904]", "[0,0]"), "more than 2^64 bytes");
    EXPECT_REFUSED(one("F32", "[1,1,1,1,1,1,1]", "[0,4]"), "more than 6 dimensions");
    EXPECT_REFUSED(one("F32", "[1]", "[0,4,8]"), "data_offsets of tensor x has more than two numbers");
    EXPECT_REFUSED(one("F32", "[1]", "[0]"), "data_offsets of tensor x has 1 numbers");
    EXPECT_REFUSED(one("F32", "[1]", "[4,0]"), "ends (byte 0) before it begins (4)");
    EXPECT_REFUSED(one("F32", "[1]", "[18446744073709551612,18446744073709551615]"), "has 3 bytes where F32(1) takes 4");
    EXPECT_REFUSED(one("F32", "[1]", "[18446744073709551611,18446744073709551615]"), "ends at byte 18446744073709551615 of 4");
    EXPECT_REFUSED(one("F32", "[1]", "[4,8]", 8), "bytes 0 to 4 belong to no tensor (before x)");
}

TEST_CASE("safetensors: holes and overlaps between tensors") {
    auto two = [](const std::string& a, const std::string& b) {
        return file_of("{\"b\":" + entry("U8", "[4]", b) + ",\"a\":" + entry("U8", "[4]", a) + ",\"e\":" + entry("U8", "[0]", "[4,4]") + "}", std::string(8, 'a'));
    };
    EXPECT_EQ(refusal(two("[0,4]", "[4,8]")), "");
    EXPECT_EQ(refusal(two("[4,8]", "[0,4]")), "");                       // names need not be in the order of the bytes
    EXPECT_REFUSED(two("[0,4]", "[3,7]"), "overlap");
    EXPECT_REFUSED(two("[0,4]", "[0,4]"), "tensors a and b overlap");
    EXPECT_REFUSED(file_of("{\"a\":" + entry("U8", "[1]", "[0,1]") + ",\"b\":" + entry("U8", "[1]", "[2,3]") + "}", "abc"), "bytes 1 to 2 belong to no tensor (before b)");
    EXPECT_REFUSED(file_of("{\"e\":" + entry("U8", "[0]", "[1,1]") + "}", "a"), "bytes 0 to 1 belong to no tensor");
}

TEST_CASE("safetensors: paths that are no such file") {
    TempDir dir;
    auto message = [](const std::string& path) -> std::string {
        try { SafeTensors::open(path); } catch (const Error& e) { EXPECT(e.code == Exit::bad_weights); return e.what(); }
        return "";
    };
    EXPECT_EQ(message(dir / "none"), dir / "none" + ": cannot be opened: No such file or directory; check the path");
    EXPECT_EQ(message(dir.path.string()), dir.path.string() + ": a safetensors file is expected, this is a folder");
    EXPECT_EQ(message("/dev/null"), "/dev/null: a safetensors file is expected, this is a special file");
    write(dir / "empty", "");
    EXPECT_EQ(message(dir / "empty"), dir / "empty" + ": the file is empty; get it again");
    write(dir / "text", "hello, this is not a model");
    EXPECT_NE(message(dir / "text").find("the file is damaged or not a safetensors file"), std::string::npos);
}

TEST_CASE("safetensors: a write that fails leaves neither file nor remains") {
    TempDir dir;
    EXPECT_THROWS_WITH_AS(write_safetensors(dir / "no/such/folder.safetensors", {}), doctest::Contains("cannot be written"), Error);
    std::filesystem::create_directory(dir / "taken");
    write(dir / "taken/file", "");
    EXPECT_THROWS_WITH_AS(write_safetensors(dir / "taken", {{"x", zeros({1})}}), doctest::Contains("cannot be written"), Error);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path), {}), 1);
    EXPECT_THROWS_AS(write_safetensors(dir / "a", {{"x", zeros({1})}, {"x", zeros({1})}}), std::logic_error);
    EXPECT_THROWS_AS(write_safetensors(dir / "a", {{"__metadata__", zeros({1})}}), std::logic_error);
}
