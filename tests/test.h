// What every test file includes.
#pragma once
#define DOCTEST_CONFIG_NO_SHORT_MACRO_NAMES     // CHECK is the product's own
#include <doctest/doctest.h>
#include <cstdlib>
#include <filesystem>
#include <string>

#define TEST_CASE DOCTEST_TEST_CASE
#define SUBCASE DOCTEST_SUBCASE
#define EXPECT DOCTEST_CHECK
#define EXPECT_FALSE DOCTEST_CHECK_FALSE
#define EXPECT_EQ DOCTEST_CHECK_EQ
#define EXPECT_NE DOCTEST_CHECK_NE
#define EXPECT_LT DOCTEST_CHECK_LT
#define EXPECT_LE DOCTEST_CHECK_LE
#define EXPECT_GT DOCTEST_CHECK_GT
#define EXPECT_GE DOCTEST_CHECK_GE
#define EXPECT_MESSAGE DOCTEST_CHECK_MESSAGE
#define EXPECT_THROWS_AS DOCTEST_CHECK_THROWS_AS
#define EXPECT_THROWS_WITH_AS DOCTEST_CHECK_THROWS_WITH_AS
#define REQUIRE DOCTEST_REQUIRE
#define REQUIRE_EQ DOCTEST_REQUIRE_EQ
#define FAIL_CHECK DOCTEST_FAIL_CHECK
#define MESSAGE DOCTEST_MESSAGE
#define CAPTURE DOCTEST_CAPTURE
#define INFO DOCTEST_INFO

namespace merv::test {

void skip(const std::string& why);              // marks the running case as skipped; return after it

// Material under other licences, read from ../shared where it is present. Empty (and the case marked skipped) if absent.
inline std::string shared(const std::string& path) {
    const char* root = std::getenv("MERV_SHARED");
    const std::string full = std::string(root ? root : "../shared") + "/" + path;
    if (std::filesystem::exists(full)) return full;
    skip(full + " is not here");
    return "";
}
// Committed reference output, relative to the project's root (the tests run from there).
inline std::string golden(const std::string& path) { return "tests/golden/" + path; }
inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }
#define EXPECT_SAYS(text, part) EXPECT_MESSAGE(merv::test::contains(text, part), "got '", text, "' instead of '", part, "'")
// A scratch folder that is removed again.
struct TempDir {
    std::filesystem::path path;
    TempDir() {
        std::string name = (std::filesystem::temp_directory_path() / "merv-test-XXXXXX").string();
        if (!mkdtemp(name.data())) std::abort();
        path = name;
    }
    ~TempDir() { std::error_code ignored; std::filesystem::remove_all(path, ignored); }
    std::string operator/(const std::string& name) const { return (path / name).string(); }
};

}
