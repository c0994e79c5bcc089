// Changing stacks: callee-saved registers are pushed, the stack pointer is exchanged. 10 ns; swapcontext takes 300 (two
// system calls for the signal mask).
#include <sys/mman.h>
#include "core/emulated_memory.h"
#include "kernels/emu/machine.h"

#ifdef __x86_64__
asm(R"(
.text
.globl switch_stacks
.type switch_stacks, @function
switch_stacks:
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
.size switch_stacks, .-switch_stacks
)");
#else
#include <ucontext.h>
#endif

namespace merv::emu {

char* new_stack() { return emulated_memory::map(kStack, MAP_NORESERVE); }

#ifdef __x86_64__
void prepare(Thread& t, void (*entry)()) {
    // Tops of stacks that are all page-aligned would share a few sets of the cache: they are staggered by lines.
    void** top = reinterpret_cast<void**>(t.stack + kStack - (size_t(t.number) * 1088 & 0x7fc0));
    *--top = nullptr;                           // entry's return address: it has none; and the stack is 16n + 8 as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    t.stack_pointer = top;
}
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
