// The benchmarks' own files become the reference's layout (data/benchmarks.h). Videos stay where they are: OUT/videos is for links to them.
// What each benchmark takes and where its files come from: docs/evaluation.md. A damaged row is Error(Exit::bad_data) with its number.
#pragma once
#include <string>
#include <vector>
#include "core/flags.h"

namespace merv {

struct Convert {
    std::string benchmark;                      // one of convertible()
    std::string in;                             // the questions; for activitynet-qa test_q.json
    std::string answers = {};                   // activitynet-qa's test_a.json; default: beside the questions, _q replaced by _a
    std::string mapping = {};                   // msvd-qa: youtube_mapping.txt; perception-test: cut_frame_mapping.json; ssv2: the labels
    std::string temporal = {};                  // ssv2: a file of the classes of the temporal subset, one a line; default: temporal_classes()
    bool open = false;                          // ssv2: as an open question
    uint64_t seed = 7;                          // ssv2: of the other options and their order
};
struct Converted {
    std::string questions, answers;             // of test_q.json and test_a.json; answers empty where the benchmark keeps them secret
    size_t count = 0, answered = 0;
};
Converted convert(const Convert& c);
std::vector<std::string> convertible();

// Twelve classes of Something-Something v2 in six pairs, each the other played backwards, so that no single frame tells them apart.
const std::vector<std::string>& temporal_classes();

// Rows of a table with a heading, split at `separator`; quoted fields may hold it, line breaks and doubled quotes (RFC 4180).
std::vector<std::vector<std::string>> parse_table(const std::string& text, char separator, const std::string& where);

// merv-data convert B --in FILE --out DIR [...]: flags are convert_flags(), the benchmark is the first positional.
std::vector<const char*> convert_flags();
int convert_main(const Flags& flags);

}
