// merv-ask as the tests run it.
#pragma once
#include "tests/run_program.h"

namespace merv::test {

inline const std::string kModel = golden("merv-tiny"), kClip = "data/samples/nasa_jwst.mp4", kQuestion = "What is happening in the video?";
inline const std::string kPng("\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0\x90wS\xde\0\0\0\x0cIDATx\x9c\x63\xf8\xff\xff?\0\5\xfe\2\xfe\r\xef\x46\xb8\0\0\0\0IEND\xae\x42\x60\x82", 69);

inline Words operator+(Words a, const Words& b) { return a.insert(a.end(), b.begin(), b.end()), a; }
inline Run ask(const Words& arguments, const std::string& environment = "") { return run_program(built("merv-ask"), arguments, environment); }
inline Run answer(const Words& arguments, const std::string& environment = "") { return succeeded(ask(arguments, environment)); }

}
