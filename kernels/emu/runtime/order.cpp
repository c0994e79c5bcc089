#include <algorithm>
#include <unordered_map>
#include "kernels/emu/runtime/state.h"

namespace merv::emulated_runtime {
namespace {

struct Record { uint32_t actor, clock, name; Clock knows; };
std::deque<Record>& records() {                 // never destroyed, as all that streams may use while a program ends
    static auto* all = new std::deque<Record>(1);
    return *all;
}
struct Names {
    std::vector<const std::string*> all;
    std::unordered_map<std::string, uint32_t> numbers;
};
Names& names() {
    static auto* n = new Names;
    return *n;
}
unsigned state = 1;

}

Host host;

uint32_t at(const Clock& c, size_t actor) { return actor < c.size() ? c[actor] : 0; }
void raise(Clock& c, size_t actor, uint32_t to) {
    if (c.size() <= actor) c.resize(actor + 1);
    c[actor] = std::max(c[actor], to);
}
void join(Clock& to, const Clock& from) {
    if (to.size() < from.size()) to.resize(from.size());
    for (size_t i = 0; i < from.size(); i++) to[i] = std::max(to[i], from[i]);
}

RecordId new_record(uint32_t actor, uint32_t clock, const Clock& knows, const std::string& name) {
    const auto [at, added] = names().numbers.try_emplace(name, uint32_t(names().all.size()));
    if (added) names().all.push_back(&at->first);
    records().push_back({actor, clock, at->second, knows});
    return last_record();
}
RecordId last_record() { return RecordId(records().size() - 1); }
const std::string& name_of(RecordId r) { return *names().all[records()[r].name]; }
bool known(RecordId r, const Clock& to) { return at(to, records()[r].actor) >= records()[r].clock; }
bool before(RecordId a, RecordId b) { return known(a, records()[b].knows); }

RecordId host_record() {
    if (!host.record) host.record = new_record(0, host.clock, host.knows, "host code");
    return host.record;
}
void next_host_record() {
    raise(host.knows, 0, ++host.clock);
    host.record = 0;
}
void host_learns(const Clock& c) {
    join(host.knows, c);
    next_host_record();
}

unsigned random_bits() {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}
void seed_random(unsigned seed) {
    state = seed * 2654435761u + 1;
    if (!state) state = 1;
}

}
