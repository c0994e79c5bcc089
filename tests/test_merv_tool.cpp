// merv <command>: runs merv-<command>, passing on arguments, output and exit code.
#include "tests/run_program.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

TEST_CASE("merv ask is merv-ask") {
    const std::vector<std::string> args = {"-q", "-m", golden("merv-tiny"), "--prompt", "it's \"quoted\" $HOME", "-n", "8"};
    std::vector<std::string> through = {"ask"};
    through.insert(through.end(), args.begin(), args.end());
    const Run a = run_program(built("merv-ask"), args), b = run_program(built("merv"), through);
    EXPECT_EQ(a.code, 0);
    EXPECT_EQ(b.code, 0);
    EXPECT_NE(a.out, "\n");
    EXPECT_EQ(a.out, b.out);
    const Run bad = run_program(built("merv"), {"ask", "--vidoe", "x"});
    EXPECT_EQ(bad.code, 2);
    EXPECT_EQ(bad.err, "merv-ask: error: unknown flag --vidoe; did you mean --video?\n");
}

TEST_CASE("merv alone explains itself; an unknown command is exit 2") {
    const Run bare = run_program(built("merv"), {}), help = run_program(built("merv"), {"--help"}), version = run_program(built("merv"), {"--version"});
    EXPECT_EQ(bare.code, 2);
    EXPECT_EQ(bare.out, "");
    EXPECT_EQ(help.code, 0);
    EXPECT_EQ(help.out, bare.err);
    EXPECT_NE(help.out.find("\n  ask\n"), std::string::npos);
    EXPECT_EQ(version.code, 0);
    EXPECT(version.out.starts_with("merv (merv.cpp) "));
    for (const char* command : {"nosuch", "", "../bin/merv-ask", "--nosuch"}) {
        const Run r = run_program(built("merv"), {command});
        EXPECT_EQ(r.code, 2);
        EXPECT_EQ(r.out, "");
        EXPECT_EQ(r.err, concat("merv: error: no command '", command, "'; `merv --help` lists them\n"));
    }
}

TEST_CASE("merv finds its commands beside itself, through links, and on the PATH") {
    TempDir dir;
    fs::create_symlink(built("merv"), dir / "merv");
    write_file(dir / "merv-hello", "#!/bin/sh\necho \"hello $*\"\nexit 3\n");
    fs::permissions(dir / "merv-hello", fs::perms::owner_all);
    const Run hello = run_program(built("merv"), {"hello", "you", "two"}, "PATH=" + dir.path.string() + ":$PATH");
    EXPECT_EQ(hello.code, 3);
    EXPECT_EQ(hello.out, "hello you two\n");
    const Run linked = run_program(dir / "merv", {"ask", "--version"});
    EXPECT_EQ(linked.code, 0);
    EXPECT(linked.out.starts_with("merv-ask "));
}
