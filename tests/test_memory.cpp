// core/memory: what is available under the kernel's and the control groups' limits, and refusing what does not fit.
#include "tests/test.h"
#include <fstream>
#include "core/check.h"
#include "core/memory.h"

using namespace merv;
using test::TempDir;

namespace {

// A machine with 1000 KiB available and these files below it.
struct Machine {
    TempDir dir;
    Machine(std::initializer_list<std::pair<std::string, std::string>> files) {
        put("proc/meminfo", "MemTotal:  9999 kB\nMemAvailable:   1000 kB\n");
        for (const auto& [path, text] : files) put(path, text);
    }
    void put(const std::string& path, const std::string& text) {
        std::filesystem::create_directories(std::filesystem::path(dir / path).parent_path());
        std::ofstream(dir / path) << text;
    }
    size_t available() const { return available_memory(dir.path.string()); }
};

}

TEST_CASE("memory: the least of the kernel's and the groups' limits") {
    EXPECT_EQ(Machine({}).available(), 1024000);
    EXPECT_EQ(Machine({{"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/memory.max", "max\n"}}).available(), 1024000);
    EXPECT_EQ(Machine({{"proc/self/cgroup", "0::/a/b\n"}, {"sys/fs/cgroup/a/memory.max", "9000\n"}, {"sys/fs/cgroup/a/memory.current", "5000\n"},
                       {"sys/fs/cgroup/a/memory.stat", "anon 2000\ninactive_file 1500\nactive_file 500\nfile_mapped 7\n"}}).available(), 6000);
    EXPECT_EQ(Machine({{"proc/self/cgroup", "0::/not/here\n"}, {"sys/fs/cgroup/memory.max", "800\n"}, {"sys/fs/cgroup/memory.current", "900\n"}}).available(), 0);
    EXPECT_EQ(Machine({{"proc/self/cgroup", "9:cpu,memory:/x\n0::/\n"}, {"sys/fs/cgroup/memory/x/memory.limit_in_bytes", "5000\n"},
                       {"sys/fs/cgroup/memory/x/memory.usage_in_bytes", "1000\n"}, {"sys/fs/cgroup/memory/x/memory.stat", "total_inactive_file 200\n"}}).available(), 4200);
    EXPECT_GT(available_memory(), 0);                    // of this machine
}

TEST_CASE("memory: MERV_MEMORY_LIMIT lowers what is available, and a plan beyond it is refused with a table") {
    setenv("MERV_MEMORY_LIMIT", "1.5Ki", 1);
    EXPECT_EQ(available_memory(), 1536);
    setenv("MERV_MEMORY_LIMIT", "2k", 1);
    EXPECT_EQ(available_memory(), 2000);
    setenv("MERV_MEMORY_LIMIT", "3MiB", 1);
    EXPECT_EQ(available_memory(), 3 << 20);
    require_memory({{{"weights", 2 << 20}, {"kv", 1 << 20}}}, "");       // fits exactly
    std::string message;
    try { require_memory({{{"weights", size_t(5) << 30}, {"kv", 1 << 20}}}, "lower --max-tokens"); } catch (const Error& e) {
        message = e.what();
        EXPECT(e.code == Exit::no_memory);
    }
    for (const char* part : {"not enough memory:\n  weights", "5.00 GiB\n  kv", "\n  in all", "\n  available", "3.00 MiB\nlower --max-tokens"})
        EXPECT_MESSAGE(message.find(part) != std::string::npos, message);
    EXPECT_EQ(MemoryPlan{{{"a", SIZE_MAX}, {"b", 1}}}.sum(), SIZE_MAX);  // no wrapping around
    for (const char* wrong : {"lots", "5x", "5Kx", "-1", "nan"}) {
        setenv("MERV_MEMORY_LIMIT", wrong, 1);
        EXPECT_THROWS_WITH_AS(available_memory(), doctest::Contains("a number of bytes such as 8Gi is expected"), Error);
    }
    unsetenv("MERV_MEMORY_LIMIT");
}
