// What an address is: a stack, a kernel's arguments, shared or global memory. Static shared memory is the kernels' thread-local
// variables, which the program's own symbol table names and bounds.
#include <cstring>
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>
#include "core/check.h"
#include "core/emulated_memory.h"
#include "kernels/emu/machine.h"

namespace merv::emu {
namespace {

constexpr size_t kPage = 4096;
constexpr int kNaN = 0xff;                      // every byte: NaN as f32 and as bf16, -1 as an integer

struct Static { uintptr_t begin, end; std::string name, symbol; };
std::vector<Static> statics;                    // kernels' __shared__ variables, by address
uintptr_t statics_begin, statics_end;
uintptr_t program_begin, program_end;
std::map<uintptr_t, std::string> kernels;       // symbols by address
std::map<uintptr_t, uint32_t> windows;          // shared addresses of static variables, this launch's

char* map_or_fail(size_t bytes, int flags) {
    void* m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (m == MAP_FAILED) fail(Exit::no_memory, "out of memory: ", bytes, " bytes of the emulated device");
    return static_cast<char*>(m);
}
// Where its static shared memory is: only the running block's is in place.
uintptr_t statics_of(const Block& b) { return &b == current->block ? statics_begin : uintptr_t(b.statics.data()); }
size_t pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}

void find_statics() {
    static bool found = false;
    if (found) return;
    found = true;
    uintptr_t tls = 0;
    static uintptr_t load_bias;
    auto visit = [](dl_phdr_info* info, size_t, void* out) {
        load_bias = info->dlpi_addr;
        program_begin = ~uintptr_t(0);
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const auto& h = info->dlpi_phdr[i];
            if (h.p_type == PT_TLS) *static_cast<uintptr_t*>(out) = uintptr_t(info->dlpi_tls_data);
            if (h.p_type != PT_LOAD) continue;
            program_begin = std::min(program_begin, uintptr_t(info->dlpi_addr + h.p_vaddr));
            program_end = std::max(program_end, uintptr_t(info->dlpi_addr + h.p_vaddr + h.p_memsz));
        }
        return 1;                               // the program itself comes first
    };
    dl_iterate_phdr(visit, &tls);
    const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const off_t size = file < 0 ? 0 : lseek(file, 0, SEEK_END);
    void* image = size > 0 ? mmap(nullptr, size_t(size), PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    if (file >= 0) close(file);
    if (image == MAP_FAILED) fail(Exit::runtime, "emulator: cannot read this program's own symbols in /proc/self/exe");
    const char* bytes = static_cast<const char*>(image);
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes);
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes + header->e_shoff);
    bool symbols = false;
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        symbols = true;
        const auto* s = reinterpret_cast<const ElfW(Sym)*>(bytes + sections[i].sh_offset);
        const char* names = bytes + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof *s; k++) {
            const char* name = names + s[k].st_name;        // a variable of a function in merv::kernels::emu_<mode>
            if (ELF64_ST_TYPE(s[k].st_info) == STT_FUNC && std::strstr(name, "emu_")) kernels[load_bias + s[k].st_value] = name;
            if (ELF64_ST_TYPE(s[k].st_info) != STT_TLS || !s[k].st_size || std::strncmp(name, "_ZZ", 3) || !std::strstr(name, "emu_")) continue;
            int status;
            char* readable = abi::__cxa_demangle(name, nullptr, nullptr, &status);
            std::string full = readable ? readable : name;
            std::free(readable);
            statics.push_back({tls + s[k].st_value, tls + s[k].st_value + s[k].st_size, full.substr(full.rfind("::") == full.npos ? 0 : full.rfind("::") + 2), name});
        }
    }
    munmap(image, size_t(size));
    if (!symbols) fail(Exit::runtime, "emulator: this program was stripped; without symbols shared memory cannot be found");
    std::sort(statics.begin(), statics.end(), [](const Static& a, const Static& b) { return a.begin < b.begin; });
    if (!statics.empty()) statics_begin = statics.front().begin, statics_end = statics.back().end;
}

size_t static_bytes(const void* kernel) {
    windows.clear();
    const auto it = kernels.find(uintptr_t(kernel));
    size_t sum = 0;
    if (it != kernels.end())                    // _ZN... is the kernel, _ZZN...E... a variable of it
        for (const Static& s : statics) if (s.symbol.compare(0, it->second.size() + 2, "_ZZ" + it->second.substr(2) + "E") == 0) sum += s.end - s.begin;
    return sum;
}

std::string Place::name() const {
    switch (kind) {
        case stack: return "a stack";
        case arguments: return "the arguments";
        case dynamic_shared: return "dynamic shared memory";
        case global: return concat("global memory of ", end - begin, " bytes");
        case program: return "a variable of the program";
        case static_shared:
            for (const Static& s : statics) if (s.begin - statics_begin == begin - statics_of(*owner)) return "__shared__ " + s.name;
            return "static shared memory";
        default: return "memory that no kernel may touch";
    }
}

namespace {

// In b's shared memory, whose static part lies at `base`
Place shared_place(uintptr_t a, Block& b, uintptr_t base) {
    const uintptr_t dynamic = uintptr_t(b.dynamic);
    if (b.dynamic && a + kPage >= dynamic && a < uintptr_t(b.dynamic_end) + kPage) return {Place::dynamic_shared, dynamic, dynamic + launched->smem, &b};
    if (a - base >= statics_end - statics_begin) return {};
    const uintptr_t moved = base - statics_begin;
    const auto it = std::upper_bound(statics.begin(), statics.end(), a - moved, [](uintptr_t x, const Static& s) { return x < s.end; });
    if (a - moved >= it->begin) return {Place::static_shared, it->begin + moved, it->end + moved, &b};
    return {Place::static_shared, a, a, &b};    // between two of them: no object
}

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
    if (const emulated_memory::Block* g = emulated_memory::near(a)) return {Place::global, g->begin, g->end};
    if (a >= program_begin && a < program_end) return {Place::program, program_begin, program_end};
    return {Place::unknown, a, a};
}

std::string describe(uintptr_t a) {
    const Place p = place_of(a);
    if (p.kind == Place::unknown || p.kind == Place::program) return concat(p.name(), " (0x", std::hex, a, ")");
    if (a < p.begin) return concat(p.name(), " - ", p.begin - a);
    return concat(p.name(), a >= p.end ? ", past its end, + " : " + ", a - p.begin);
}

Cell* cells_of(const Place& p, uintptr_t a) {
    switch (p.kind) {
        case Place::dynamic_shared: return &p.owner->dynamic_cells[(a - p.begin) / kCellBytes];
        case Place::static_shared: return &p.owner->static_cells[(a - statics_of(*p.owner)) / kCellBytes];
        case Place::global: {
            static_assert(sizeof(Cell) <= emulated_memory::kNoteBytes && kCellBytes == 2);
            const emulated_memory::Block& g = *emulated_memory::near(a);
            return static_cast<Cell*>(g.notes) + (a / kCellBytes - g.begin / kCellBytes);
        }
        default: return nullptr;
    }
}

// ---- shared memory

unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(current->block->dynamic); }

// The window of shared addresses: the first 1024 bytes are the system's, then the dynamic array, then the static variables.
uint32_t shared_address(const void* p, Site site) {
    const uintptr_t a = uintptr_t(p);
    const Place at = place_of(a);
    const bool mine = at.owner == current->block;
    if (mine && at.kind == Place::dynamic_shared && a >= at.begin && a <= at.end) return uint32_t(kReserved + (a - at.begin));
    if (mine && at.kind == Place::static_shared && at.begin < at.end) {
        uint32_t end = uint32_t(kReserved + (launched->smem + 1023) / 1024 * 1024);     // each gets a place with its alignment when first asked for
        for (const auto& [begin, address] : windows) end = std::max(end, uint32_t(address + (place_of(begin).end - begin) + 1023) / 1024 * 1024);
        const auto [window, added] = windows.try_emplace(at.begin, uint32_t(end + at.begin % 1024));
        return uint32_t(window->second + (a - at.begin));
    }
    report("ACCESS", name_of(site), concat(name_of(*current), " takes the shared address of ", describe(a), " at ", name_of(site)));
    return 0;
}

char* shared_pointer(uint32_t address) {
    const size_t dynamic = (launched->smem + 1023) / 1024 * 1024;
    if (address < kReserved) return nullptr;
    if (address < kReserved + dynamic) return current->block->dynamic + (address - kReserved);
    for (const auto& [begin, window] : windows)
        if (address - window < place_of(begin).end - begin) return reinterpret_cast<char*>(begin + (address - window));
    return nullptr;
}
Local local_of(const void* p) {
    const Place at = place_of(uintptr_t(p));
    if (!at.owner || uintptr_t(p) < at.begin || uintptr_t(p) >= at.end) return {};
    if (at.kind == Place::dynamic_shared) return {at.owner, uintptr_t(p)};
    return {at.owner, uintptr_t(p) - statics_of(*at.owner) + statics_begin};
}
char* from_here(const Local& l) {
    if (l.address - statics_begin < statics_end - statics_begin) return reinterpret_cast<char*>(l.address - statics_begin + statics_of(*l.block));
    return reinterpret_cast<char*>(l.address);
}
Local counterpart(const Local& l, Block& other) {
    if (l.address - statics_begin < statics_end - statics_begin) return {&other, l.address};
    return {&other, l.address - uintptr_t(l.block->dynamic) + uintptr_t(other.dynamic)};
}

void open_shared(Block& b, size_t bytes) {
    if (!b.dynamic_end) {                       // kept for the next block
        const size_t most = pages(kMostShared);
        char* m = map_or_fail(most + 2 * kPage, MAP_NORESERVE);
        mprotect(m, kPage, PROT_NONE);
        b.dynamic_end = m + kPage + most;
        mprotect(b.dynamic_end, kPage, PROT_NONE);
    }
    const size_t whole = (bytes + 1023) / 1024 * 1024;
    b.dynamic = b.dynamic_end - whole;          // 1024-byte aligned, its end near the unreadable page
    std::memset(b.dynamic, kNaN, whole);
    b.statics.assign(statics_end - statics_begin, char(kNaN));
}
void close_shared(Block& b) { b.dynamic = nullptr; }
// Only the kernels' own variables: others may lie between.
void enter_statics(Block& b) {
    for (const Static& s : statics) std::memcpy(reinterpret_cast<void*>(s.begin), b.statics.data() + (s.begin - statics_begin), s.end - s.begin);
}
void leave_statics(Block& b) {
    for (const Static& s : statics) std::memcpy(b.statics.data() + (s.begin - statics_begin), reinterpret_cast<void*>(s.begin), s.end - s.begin);
}

}
