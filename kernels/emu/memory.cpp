// What an address is: a stack, a kernel's arguments, shared or global memory. Static shared memory is the kernels' thread-local
// variables, which the program's own symbol table names and bounds.
#include <cstring>
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <span>
#include <sys/mman.h>
#include <unistd.h>
#include "core/emulated_memory.h"
#include "kernels/emu/machine.h"

extern "C" char __executable_start, _end;       // the program, by the linker

namespace merv::emu {
namespace {

using emulated_memory::kPage;
constexpr int kNaN = 0xff;                      // every byte: NaN as f32 and as bf16, -1 as an integer

struct Static { uintptr_t begin, end; std::string name, symbol, compilation; };
std::vector<Static> all_statics;                // kernels' __shared__ variables, by compilation and address
std::span<const Static> statics;                // of the launched kernel's compilation: each block has its own, and in a program of tests all of them take megabytes
uintptr_t statics_begin, statics_end;
std::map<uintptr_t, std::string> kernels;       // symbols by address
struct Window { uintptr_t home; size_t bytes; uint32_t address; };
std::vector<Window> windows;                    // shared addresses of static variables, this launch's

// "emu_fast" of a function in merv::kernels::emu_fast, "4cuda" of one in merv::kernels::cuda (the emulated runtime), nothing of other functions
std::string compilation_of(const std::string& symbol) {
    const size_t at = std::min(symbol.find("emu_"), symbol.find("4cuda"));
    return at == symbol.npos ? "" : symbol.substr(at, symbol.find_first_not_of("abcdefghijklmnopqrstuvwxyz_", at + 1) - at);
}
size_t whole(size_t bytes) { return (bytes + 1023) / 1024 * 1024; }
// Where its static shared memory is: only the running block's is in place.
uintptr_t statics_of(const Block& b) { return &b == current->block ? statics_begin : uintptr_t(b.shared.statics.data()); }

// In b's shared memory, whose static part lies at `base`
Place shared_place(uintptr_t a, Block& b, uintptr_t base) {
    const uintptr_t dynamic = uintptr_t(b.dynamic);
    if (b.dynamic && a + kPage >= dynamic && a < uintptr_t(b.shared.dynamic_end) + kPage) return {Place::dynamic_shared, dynamic, dynamic + launched->smem, &b};
    if (a - base >= statics_end - statics_begin) return {};
    const uintptr_t moved = base - statics_begin;
    const auto it = std::upper_bound(statics.begin(), statics.end(), a - moved, [](uintptr_t x, const Static& s) { return x < s.end; });
    if (a - moved >= it->begin) return {Place::static_shared, it->begin + moved, it->end + moved, &b};
    return {Place::static_shared, a, a, &b};    // between two of them: no object
}

}

void find_statics() {
    static thread_local char here; static const char* found;    // each thread has static variables of its own
    if (std::exchange(found, &here) == &here) return;
    all_statics.clear();
    dl_phdr_info program{};
    dl_iterate_phdr([](dl_phdr_info* info, size_t, void* out) { *static_cast<dl_phdr_info*>(out) = *info; return 1; }, &program);       // it comes first
    const uintptr_t tls = uintptr_t(program.dlpi_tls_data);
    const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const off_t size = file < 0 ? 0 : lseek(file, 0, SEEK_END);
    void* image = size > 0 ? mmap(nullptr, size_t(size), PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    if (file >= 0) close(file);
    if (image == MAP_FAILED) fail(Exit::runtime, "emulator: cannot read this program's own symbols in /proc/self/exe");
    const char* bytes = static_cast<const char*>(image);
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes);
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const auto* s = reinterpret_cast<const ElfW(Sym)*>(bytes + sections[i].sh_offset);
        const char* names = bytes + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof *s; k++) {
            const char* name = names + s[k].st_name;
            const bool ours = std::strstr(name, "emu_") || std::strstr(name, "7kernels4cuda");
            if (ours && ELF64_ST_TYPE(s[k].st_info) == STT_FUNC) kernels[program.dlpi_addr + s[k].st_value] = name;
            if (ELF64_ST_TYPE(s[k].st_info) != STT_TLS || !s[k].st_size || std::strncmp(name, "_ZZ", 3) || !ours) continue;
            const std::unique_ptr<char, void (*)(void*)> readable(abi::__cxa_demangle(name, nullptr, nullptr, nullptr), std::free);
            const std::string full = readable ? readable.get() : name;
            all_statics.push_back({tls + s[k].st_value, tls + s[k].st_value + s[k].st_size, full.substr(full.rfind("::") == full.npos ? 0 : full.rfind("::") + 2), name, compilation_of(name)});
        }
    }
    munmap(image, size_t(size));
    if (kernels.empty()) fail(Exit::runtime, "emulator: this program was stripped; without symbols shared memory cannot be found");
    std::sort(all_statics.begin(), all_statics.end(), [](const Static& a, const Static& b) { return std::tie(a.compilation, a.begin) < std::tie(b.compilation, b.begin); });
}

size_t static_bytes(const void* kernel) {
    windows.clear();
    const auto it = kernels.find(uintptr_t(kernel));
    const auto its = std::ranges::equal_range(all_statics, it == kernels.end() ? "" : compilation_of(it->second), {}, &Static::compilation);
    statics = {its.begin(), its.end()};
    statics_begin = its.empty() ? 0 : its.front().begin, statics_end = its.empty() ? 0 : its.back().end;
    size_t sum = 0;
    if (it != kernels.end())                    // _ZN... is the kernel, _ZZN...E... a variable of it
        for (const Static& s : statics) if (s.symbol.compare(0, it->second.size() + 2, "_ZZ" + it->second.substr(2) + "E") == 0) sum += s.end - s.begin;
    return sum;
}

std::string Place::name() const {
    if (kind == global) return concat("global memory of ", end - begin, " bytes");
    if (kind == static_shared)
        for (const Static& s : statics) if (s.begin - statics_begin == begin - statics_of(*owner)) return "__shared__ " + s.name;
    constexpr const char* names[] = {"memory that no kernel may touch", "a stack", "the arguments", "dynamic shared memory", "static shared memory", "", "a variable of the program"};
    return names[kind];
}

Place place_of(uintptr_t a) {
    const uintptr_t stack = uintptr_t(current->stack);
    if (a - stack < kStack) return {Place::stack, stack, stack + kStack};
    Block& b = *current->block;
    if (const Place p = shared_place(a, b, statics_begin); p.kind) return p;
    const uintptr_t arguments = uintptr_t(launched->arguments);
    if (a - arguments < launched->argument_bytes) return {Place::arguments, arguments, arguments + launched->argument_bytes};
    for (Block* other : b.cluster->blocks)
        if (other != &b)
            if (const Place p = shared_place(a, *other, statics_of(*other)); p.kind) return p;
    if (const uintptr_t begin = uintptr_t(&__executable_start), end = uintptr_t(&_end); a >= begin && a < end) return {Place::program, begin, end};      // threadIdx and its kin
    if (const emulated_memory::Block* g = emulated_memory::near(a)) return {Place::global, g->begin, g->end};
    return {Place::unknown, a, a};
}

std::string describe(uintptr_t a) {
    const Place p = place_of(a);
    if (p.kind == Place::unknown || p.kind == Place::program) return concat(p.name(), " (0x", std::hex, a, ")");
    if (a < p.begin) return concat(p.name(), " - ", p.begin - a);
    return concat(p.name(), a >= p.end ? ", past its end, + " : " + ", a - p.begin);
}

Cell* cells_of(const Place& p, uintptr_t a) {
    if (p.kind == Place::dynamic_shared) return &p.owner->shared.dynamic_cells[(a - p.begin) / kCellBytes];
    if (p.kind == Place::static_shared) return &p.owner->shared.static_cells[(a - statics_of(*p.owner)) / kCellBytes];
    if (p.kind != Place::global) return nullptr;
    static_assert(sizeof(Cell) <= emulated_memory::kNoteBytes && kCellBytes == 2);
    const emulated_memory::Block& g = *emulated_memory::near(a);
    return static_cast<Cell*>(g.notes) + (a / kCellBytes - g.begin / kCellBytes);
}

// ---- shared memory

unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(current->block->dynamic); }

// Shared addresses, which are the same in each block of a cluster: the first 1024 bytes are the system's, then come the dynamic array and
// the static variables; each of these gets a place with its alignment when first asked for.
Local local_of(const void* p) {
    const uintptr_t a = uintptr_t(p);
    const Place at = place_of(a);
    if (!at.owner || a < at.begin || a > at.end || at.begin == at.end) return {};
    if (at.kind == Place::dynamic_shared) return {at.owner, uint32_t(kReserved + (a - at.begin))};
    const uintptr_t home = at.begin - statics_of(*at.owner) + statics_begin;
    uint32_t end = uint32_t(kReserved + whole(launched->smem));
    for (const Window& w : windows) {
        if (w.home == home) return {at.owner, uint32_t(w.address + (a - at.begin))};
        end = uint32_t(whole(w.address + w.bytes));
    }
    windows.push_back({home, at.end - at.begin, uint32_t(end + home % 1024)});
    return {at.owner, uint32_t(windows.back().address + (a - at.begin))};
}
char* from_here(const Local& l) {
    if (l.address - kReserved < whole(launched->smem)) return l.block->dynamic + (l.address - kReserved);
    for (const Window& w : windows)
        if (l.address - w.address < w.bytes) return reinterpret_cast<char*>(w.home - statics_begin + statics_of(*l.block) + (l.address - w.address));
    return nullptr;
}
char* shared_pointer(uint32_t address) { return from_here({current->block, address}); }
uint32_t shared_address(const void* p, Site site) {
    const Local l = local_of(p);
    if (l.block == current->block) return l.address;
    wrong("ACCESS", site, "no shared address: ", describe(uintptr_t(p)));
    return 0;
}

void open_shared(Block& b, size_t bytes) {
    if (!b.shared.dynamic_end) b.shared.dynamic_end = emulated_memory::map(kMostShared, MAP_NORESERVE) + (kMostShared + kPage - 1) / kPage * kPage;     // kept for the next block
    b.dynamic = b.shared.dynamic_end - whole(bytes);    // 1024-byte aligned, its end near the unreadable page
    std::memset(b.dynamic, kNaN, whole(bytes));
    b.shared.statics.assign(statics_end - statics_begin, char(kNaN));
}
// Only the kernels' own variables: others may lie between.
void exchange_statics(Block* leaves, Block* enters) {
    for (const Static& s : statics) {
        void* place = reinterpret_cast<void*>(s.begin);
        if (leaves) std::memcpy(leaves->shared.statics.data() + (s.begin - statics_begin), place, s.end - s.begin);
        std::memcpy(place, enters->shared.statics.data() + (s.begin - statics_begin), s.end - s.begin);
    }
}

}
