// Runs every test case and closes with one line: "N passed, N failed[, N skipped]".
#define DOCTEST_CONFIG_IMPLEMENT
#include "tests/test.h"
#include <cstdio>

namespace merv::test {
bool skipped_now = false;

namespace {
int passed = 0, failed = 0, skipped = 0;

struct Counter : doctest::IReporter {
    explicit Counter(const doctest::ContextOptions&) {}
    void report_query(const doctest::QueryData&) override {}
    void test_run_start() override {}
    void test_run_end(const doctest::TestRunStats&) override {}
    void test_case_start(const doctest::TestCaseData&) override { skipped_now = false; }
    void test_case_reenter(const doctest::TestCaseData&) override {}
    void test_case_end(const doctest::CurrentTestCaseStats& s) override {
        if (s.failure_flags) failed++;
        else if (skipped_now) skipped++;
        else passed++;
    }
    void test_case_exception(const doctest::TestCaseException&) override {}
    void subcase_start(const doctest::SubcaseSignature&) override {}
    void subcase_end() override {}
    void log_assert(const doctest::AssertData&) override {}
    void log_message(const doctest::MessageData&) override {}
    void test_case_skipped(const doctest::TestCaseData&) override {}
};
DOCTEST_REGISTER_LISTENER("count", 1, Counter);
}

void skip(const std::string& why) {
    skipped_now = true;
    std::printf("skipped: %s\n", why.c_str());
}
}

int main(int argc, char** argv) {
    doctest::Context context(argc, argv);
    const int result = context.run();
    if (context.shouldExit()) return result;
    using namespace merv::test;
    std::printf("%d passed, %d failed", passed, failed);
    if (skipped) std::printf(", %d skipped", skipped);
    std::printf("\n");
    return failed ? 1 : result;
}
