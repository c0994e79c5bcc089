// Changing stacks: callee-saved registers are pushed, the stack pointer is exchanged. 10 ns; swapcontext takes 300 (two
// system calls for the signal mask).
#include <sys/mman.h>
#include "core/check.h"
#include "kernels/emu/machine.h"

#ifdef __x86_64__
asm(R"(
.text
.globl merv_emu_switch
.type merv_emu_switch, @function
merv_emu_switch:
    .cfi_startproc
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .cfi_endproc
.size merv_emu_switch, .-merv_emu_switch
)");
extern "C" void merv_emu_switch(void** save, void* to);
#else
#include <ucontext.h>
#endif

namespace merv::emu {

constexpr size_t kPage = 4096;

char* new_stack() {
    void* m = mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) fail(Exit::no_memory, "out of memory: the stack of an emulated thread");
    mprotect(m, kPage, PROT_NONE);
    return static_cast<char*>(m) + kPage;
}

#ifdef __x86_64__
void prepare(Thread& t, void (*entry)()) {
    // Tops of stacks that are all page-aligned would share a few sets of the cache: they are staggered by lines.
    void** top = reinterpret_cast<void**>(t.stack + kStack - (size_t(t.number) * 1088 & 0x7fc0));
    *--top = nullptr;                           // entry's return address: it has none; and the stack is 16n + 8 as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    t.stack_pointer = top;
}
void switch_stacks(void** save, void* to) { merv_emu_switch(save, to); }
#else
void prepare(Thread& t, void (*entry)()) {
    ucontext_t* c = new (t.stack) ucontext_t;   // at the far end of its own stack
    getcontext(c);
    c->uc_stack.ss_sp = t.stack + sizeof *c;
    c->uc_stack.ss_size = kStack - sizeof *c;
    makecontext(c, entry, 0);
    t.stack_pointer = c;
}
void switch_stacks(void** save, void* to) {
    static ucontext_t host;
    if (!*save) *save = &host;
    swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(to));
}
#endif

}
