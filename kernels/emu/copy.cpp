// cp.async: the copy is made when it is waited for, as late as the hardware may; meanwhile its destination is NaN.
#include <cstring>
#include "kernels/emu/machine.h"

namespace merv::emu {

void cp_async(void* shared, const void* global, int bytes, int valid, Site site) {
    const uint32_t where = where_is(site);
    if (bytes != 4 && bytes != 8 && bytes != 16) return wrong("ASYNC", site, "cp.async: ", "copies 4, 8 or 16 bytes, not ", bytes);
    if (valid < 0 || valid > bytes) return wrong("ASYNC", site, "cp.async: ", valid, " bytes of ", bytes, " cannot be valid");
    if (uintptr_t(shared) % size_t(bytes) || uintptr_t(global) % size_t(bytes)) wrong("ALIGN", site, "cp.async: ", "addresses must be multiples of ", bytes);
    shared_address(shared, site);
    const Place to = place_of(uintptr_t(shared));
    if (to.kind != Place::dynamic_shared && to.kind != Place::static_shared) return;
    if (uintptr_t(shared) < to.begin || uintptr_t(shared) + size_t(bytes) > to.end) return wrong("ACCESS", site, "cp.async: ", "writes ", bytes, " bytes to ", describe(uintptr_t(shared)));
    if (valid && place_of(uintptr_t(global)).kind != Place::global) return wrong("ACCESS", site, "cp.async: ", "reads ", describe(uintptr_t(global)), ", not global memory");
    for (int left = valid, piece = checking() ? 16 : valid; left > 0; piece /= 2)       // 13 bytes are 8, 4 and 1, each of which is aligned
        if (left >= piece) see(uintptr_t(global) + size_t(valid - left), size_t(piece), kRead | kCopy, where), left -= piece;
    if (checking()) begin_copy(uintptr_t(shared), size_t(bytes), where);
    if (counting()) count_access(uintptr_t(shared), size_t(bytes), kWrite | kCopy, where);
    std::memset(shared, 0xff, size_t(bytes));
    current->copies.push_back({static_cast<char*>(shared), static_cast<const char*>(global), bytes, valid, where});
}

void cp_async_commit() { current->groups.push_back(std::exchange(current->copies, {})); }

void cp_async_wait(int pending, Site) {
    while (int(current->groups.size()) > pending) {
        for (const Copy& c : current->groups.front()) {
            std::memcpy(c.to, c.from, size_t(c.valid));
            std::memset(c.to + c.valid, 0, size_t(c.bytes - c.valid));
            if (checking()) end_copy(uintptr_t(c.to), size_t(c.bytes), c.where);
        }
        current->groups.pop_front();
    }
}

void finish_copies(Thread& t) {
    const bool left = !t.copies.empty() || !std::ranges::all_of(t.groups, [](const auto& g) { return g.empty(); });
    if (left) report("ASYNC", "exit", concat(name_of(t), " exits before its cp.async were waited for"));
}

}
