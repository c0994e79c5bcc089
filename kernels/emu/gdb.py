# For gdb: source kernels/emu/gdb.py
#   info cuda                    threads of the running block, grouped by what they wait for and where
#   cuda-thread X [Y [Z]]        that thread's stack and variables, though another one is running (x86-64)
#   cuda-thread back             the running thread again; needed before the program goes on
import gdb

REGISTERS = ("r15", "r14", "r13", "r12", "rbx", "rbp", "rip")      # as fiber.cpp saves them, from the stack pointer up


def threads():
    first = gdb.parse_and_eval("merv::emu::current->block->threads._M_impl._M_start")
    end = gdb.parse_and_eval("merv::emu::current->block->threads._M_impl._M_finish")
    return [first[i].dereference() for i in range(int(end - first))]


def index_of(thread):
    return tuple(int(thread["index"][k]) for k in "xyz")


class InfoCuda(gdb.Command):
    """Threads of the running block, grouped by what they wait for and where."""

    def __init__(self):
        super().__init__("info cuda", gdb.COMMAND_STATUS)

    def invoke(self, text, from_tty):
        running = int(gdb.parse_and_eval("merv::emu::current->number"))
        groups = {}
        for t in threads():
            if bool(t["done"]):
                state = "exited"
            elif int(t["number"]) == running:
                state = "running"
            elif str(t["wait"]).endswith("none"):
                state = "ready"
            else:
                state = "%s at %s:%d" % (str(t["wait"]).split("::")[-1], t["site"]["file"].string(), int(t["site"]["line"]))
            groups.setdefault(state, []).append(index_of(t))
        print("block", gdb.parse_and_eval("blockIdx"))
        for state, members in groups.items():
            print("  %4d threads  %-50s %s .. %s" % (len(members), state, members[0], members[-1]))


class CudaThread(gdb.Command):
    """cuda-thread X [Y [Z]]: another thread's stack; cuda-thread back: the running one's."""

    saved = None

    def __init__(self):
        super().__init__("cuda-thread", gdb.COMMAND_STACK)

    def invoke(self, text, from_tty):
        words = text.split()
        gdb.execute("frame 0", to_string=True)
        if CudaThread.saved is None:
            CudaThread.saved = {r: int(gdb.parse_and_eval("(unsigned long)$" + r)) for r in REGISTERS + ("rsp",)}
        if words == ["back"]:
            for register, value in CudaThread.saved.items():
                gdb.execute("set $%s = %d" % (register, value), to_string=True)
            CudaThread.saved = None
            return
        wanted = tuple(([int(w) for w in words] + [0, 0, 0])[:3])
        for t in threads():
            if index_of(t) != wanted:
                continue
            if bool(t["done"]) or int(t["number"]) == int(gdb.parse_and_eval("merv::emu::current->number")):
                raise gdb.GdbError("thread %s has exited, or is the running one" % (wanted,))
            top = int(t["stack_pointer"].cast(gdb.lookup_type("unsigned long")))
            for i, register in enumerate(REGISTERS):
                gdb.execute("set $%s = *(unsigned long*)%d" % (register, top + 8 * i), to_string=True)
            gdb.execute("set $rsp = %d" % (top + 8 * len(REGISTERS)), to_string=True)
            gdb.execute("bt 6")
            return
        raise gdb.GdbError("the block has no thread %s" % (wanted,))


InfoCuda()
CudaThread()
