# make            every program, into build/bin          make test    all tests; the last line counts them
# make demo       ask a question about a real clip       make deps    the Debian packages this needs
# make SAN=address,undefined test                        make fuzz    fuzz targets, FUZZ_SECONDS each
# make cuda-check  compile the CUDA kernels with nvcc    make kernel-report  docs/kernels.md    make ladder  kernels/ladder/README.md
# make CUDA=1     the programs for a card, into build/cuda/bin     make gpu-bundle  build/merv-gpu.tar.xz, for bench/gpu.sh elsewhere
# make emu-cuda   the programs with --device cuda on an emulated CUDA runtime (CUDA_HOME=/usr/local/cuda has its headers)
# make bench | bench-peers | size | format | soak | soak-cuda | clean
SAN   ?=
FUZZ_SECONDS ?= 20
comma := ,
B     ?= build$(if $(SAN),/$(subst $(comma),-,$(SAN)))

FOLDERS := core kernels nn models train data weights bench
MAINS   := $(wildcard $(FOLDERS:%=%/main_*.cpp))
LIB     := $(filter-out $(MAINS) core/main.cpp,$(wildcard $(FOLDERS:%=%/*.cpp) kernels/emu/*.cpp kernels/ladder/*.cpp))
GPU     := $(wildcard kernels/cuda/*.cu kernels/ladder/*/*.cu)
TESTS   := $(wildcard tests/*.cpp tests/cases/*.cpp)
EMULATOR_TESTS := $(wildcard tests/test_emulator.cpp tests/test_bugs.cpp tests/test_counters.cpp tests/test_layouts.cpp tests/test_ladder.cpp tests/test_gpu*.cpp)   # of code that sanitizers do not see
LONG_TESTS := tests/test_tiny_run.cpp     # minutes with sanitizers, of code that other tests run with them
FUZZ    := $(wildcard tests/fuzz/fuzz_*.cpp)
BIN     := $(B)/bin/merv $(foreach m,$(MAINS),$(B)/bin/merv-$(patsubst main_%,%,$(basename $(notdir $(m)))))

# No fast-math: only what lets loops vectorise without changing a value. Fused multiply-adds are written out where wanted.
# Lines for profilers and backtraces; G=-g for a debugger. Tests are compiled fast, kernels to be fast.
G        ?= -g1
O         = $(if $(filter tests/test_%,$<),-O0,$(if $(SAN)$(filter tests/%,$<),-O1,$(if $(filter kernels/cpu/%,$<),-O3,-O2)))
CXXFLAGS  = -std=c++20 $(O) $(G) -fopenmp -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi -I. -MMD -MP $(SAN_FLAGS)
# Null pointers are AddressSanitizer's; UBSan looks at what we ship: tests take twice as long to compile with it (test_ask.cpp 22 and 47 s).
# The emulator changes stacks, which AddressSanitizer does not follow.
SAN_FLAGS = $(if $(SAN),-DMERV_EXACT_BLOCKS -fno-omit-frame-pointer -fsanitize=$(SAN) -fno-sanitize-recover=all $(if $(findstring undefined,$(SAN)),$(if $(filter tests/%,$<),-fno-sanitize=undefined,-fno-sanitize=null -fno-sanitize=vptr)) $(if $(filter kernels/emu/%,$<),-fno-sanitize=all))
# The CPU kernels are compiled once per instruction set and chosen at run time (kernels/cpu.h). Everything else is for any machine.
ISAS     := portable $(if $(filter x86_64,$(shell uname -m)),avx2 avx512 avx512_bf16)
portable.flags    :=
avx2.flags        := -march=x86-64-v3
avx512.flags      := -march=x86-64-v4 -mprefer-vector-width=512 -Wno-uninitialized    # g++ 12 warns inside its own intrinsics
avx512_bf16.flags := $(avx512.flags) -mavx512bf16
# CUDA kernels are compiled by g++ for the emulator, once per mode (kernels/emu). Checked: each load and store calls check.cpp; no libtsan.
EMU_FLAGS := -std=c++20 $(G) -Wall -Wextra -Wno-psabi -Wno-unknown-pragmas -I. -MMD -MP -ffp-contract=off -fno-strict-aliasing -x c++
EMU_MODES     := fast checked counted
fast.flags    := -O2
checked.flags := -O1 -fsanitize=thread,undefined -fno-sanitize=vptr -fsanitize-undefined-trap-on-error
# Checked, with faults to be found: which one is chosen at run time (tests/test_bugs.cpp)
bugs.mode     := checked
bugs.without  := %_sm90.cu kernels/ladder/%        # tests/emu/linear_sm90.cu chooses those of linear_sm90.cu
bugs.flags     = $(checked.flags) -include tests/emu/seeded_bug.h -DBUG='merv_seeded_bug()'
# Counted: each basic block calls count.cpp too. What would split a vector access, merge scalar ones, or copy or merge blocks is off.
counted.flags := -O2 -DMERV_EMU_COUNTED -fsanitize=thread -fsanitize-coverage=trace-pc $(addprefix -fno-,tree-sra tree-vectorize thread-jumps reorder-blocks \
	split-paths crossjumping tree-tail-merge tree-pre store-merging tree-loop-distribute-patterns split-loops unswitch-loops peel-loops)
LIBS     := -lavformat -lavcodec -lavfilter -lswscale -lavutil

PACKAGES := g++ libavformat-dev libavcodec-dev libavfilter-dev libswscale-dev libavutil-dev libstb-dev nlohmann-json3-dev doctest-dev
FUZZ_PACKAGES := clang libclang-rt-14-dev
SUDO := $(if $(filter 0,$(shell id -u)),,$(shell command -v sudo))

all: $(if $(filter 1,$(CUDA)),cuda,$(BIN))

# Installs what is missing when allowed to, else says the line to type.
define install_packages
@missing="$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || printf '%s ' $$p; done)"; \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" != 0 ] && [ -z "$(SUDO)" ]; then echo "missing packages; as root: apt-get install -y $$missing" >&2; exit 1; fi; \
echo "installing $$missing" >&2; \
$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
endef
deps: ; $(call install_packages,$(PACKAGES))
deps-fuzz: deps ; $(call install_packages,$(FUZZ_PACKAGES))

test: deps
	@$(MAKE) --no-print-directory -j$$(nproc) $(B)/tests/all $(BIN) $(CUDA_TESTS) $(CUDA_TESTS:%/all=%/faults)
	@MERV_BIN=$(B)/bin $(if $(SAN),ASAN_OPTIONS=detect_leaks=1 LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0 UBSAN_OPTIONS=print_stacktrace=1) $(if $(SAN),WITHOUT='$(EMULATOR_TESTS) $(LONG_TESTS)') CUDA_TESTS=$(CUDA_TESTS) tests/run.sh $(B)/tests/all $(ARGS)
demo: deps
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@tests/demo.sh $(B)/bin
bench: deps
	@$(MAKE) --no-print-directory -j$$(nproc) $(B)/bin/merv-bench
	@$(B)/bin/merv-bench ops

bench-peers: deps
	@$(MAKE) --no-print-directory -j$$(nproc) $(B)/bin/merv-bench
	@test -x build/peers/bin/python || python3 -m venv build/peers
	@build/peers/bin/pip install -q -r bench/requirements.txt
	@build/peers/bin/python bench/peers.py

# One object per instruction set, in which only its kernels are visible: an inline function compiled for AVX-512 must not be
# the copy that the rest of the program calls.
define isa
$(B)/kernels/cpu/$(1)/%.o: kernels/cpu/%.cpp ; @mkdir -p $$(@D) ; echo "$$< ($(1))" ; $$(CXX) $$(CXXFLAGS) $$($(1).flags) -DMERV_ISA=$(1) -c $$< -o $$@
$(B)/kernels/cpu/$(1).o: $(patsubst kernels/cpu/%.cpp,$(B)/kernels/cpu/$(1)/%.o,$(wildcard kernels/cpu/*.cpp))
	@mkdir -p $$(@D) ; ld -r --force-group-allocation $$^ -o $$@.all && objcopy -w --keep-global-symbol='_ZN4merv7kernels3cpu*$(1)3run*' $$@.all $$@ && rm $$@.all
endef
$(foreach i,$(ISAS),$(eval $(call isa,$(i))))

# Likewise the emulated kernels, one object per mode. Builds with sanitizers take the ordinary build's: fibers and our own checks leave no room for theirs.
E := $(if $(SAN),build,$(B))
define emu
$(E)/emu_$(1)/%.o: %.cu ; @mkdir -p $$(@D) ; echo "$$< ($(1))" ; $$(CXX) $$(EMU_FLAGS) $$($(1).flags) -DMERV_GPU=emu_$(1) -DMERV_EMU_MODE=$(or $($(1).mode),$(1)) -c $$< -o $$@
$(E)/kernels/emu_$(1).o: $(patsubst %.cu,$(E)/emu_$(1)/%.o,$(filter-out $($(1).without),$(GPU)))
	@mkdir -p $$(@D) ; ld -r --force-group-allocation $$^ -o $$@.all && objcopy -w --keep-global-symbol='_ZN4merv7kernels*emu_$(1)3run*' $$@.all $$@ && rm $$@.all
$(E)/tests/emu_$(1).o: $(patsubst %.cu,$(E)/emu_$(1)/%.o,$(wildcard tests/emu/*.cu))
	@mkdir -p $$(@D) ; ld -r --force-group-allocation $$^ -o $$@.all && objcopy -w --keep-global-symbol='_ZN4merv4test*emu_$(1)*' $$@.all $$@ && rm $$@.all
endef
$(foreach m,$(EMU_MODES) bugs,$(eval $(call emu,$(m))))

$(B)/libmerv.a: $(LIB:%.cpp=$(B)/%.o) $(ISAS:%=$(B)/kernels/cpu/%.o) $(EMU_MODES:%=$(E)/kernels/emu_%.o) ; @rm -f $@ ; ar rcs $@ $^
define program
$(1)/bin/$(2): $(patsubst %.cpp,$(B)/%.o,$(if $(filter merv,$(2)),core/main.cpp,$(filter %/main_$(2:merv-%=%).cpp,$(MAINS)))) $(3) $(B)/libmerv.a ; $$(link) $(4)
endef
programs = $(foreach p,$(notdir $(BIN)),$(eval $(call program,$(1),$(p),$(2),$(3))))       # folder, what is linked besides, libraries
$(call programs,$(B))
$(B)/tests/all: $(TESTS:%.cpp=$(B)/%.o) $(EMU_MODES:%=$(E)/tests/emu_%.o) $(E)/kernels/emu_bugs.o $(B)/libmerv.a ; $(link)
link = @mkdir -p $(@D) ; echo "link $@" ; $(CXX) $(CXXFLAGS) $^ $(LIBS) -o $@

$(B)/%.o: %.cpp ; @mkdir -p $(@D) ; echo "$<" ; $(CXX) $(CXXFLAGS) $(CPPFLAGS) -c $< -o $@
$(B)/core/version.o: CPPFLAGS += -DMERV_COMMIT='"$(shell git describe --always --dirty 2>/dev/null || echo unknown)"'
# Copies of the layout functions with one mistake each, which the comparison with CuTe has to notice
$(B)/tests/emu/layout_mutants.h: tests/emu/mutate_layout.sh kernels/emu/layout.h tests/emu/layout_mutations.txt ; @mkdir -p $(@D) ; $^ > $@
$(B)/tests/test_layouts.o: $(B)/tests/emu/layout_mutants.h
$(B)/tests/test_layouts.o: CPPFLAGS += -I$(B)
$(B)/core/version.o: $(wildcard .git/HEAD .git/logs/HEAD)
-include $(shell find $(B) $(if $(SAN),$(wildcard $(E)/emu_*)) -name '*.d' $(if $(SAN),,-not -path '*-*/*') 2>/dev/null)

# The emulated CUDA runtime: host code compiled against CUDA's headers, linked with kernels/emu/runtime instead of libcudart and libcublasLt.
# The runtime sees that code's accesses as the emulator sees kernels': by -fsanitize=thread without libtsan, and memcpy by another name.
CUDA_HOME ?= /usr/local/cuda
NVCC ?= $(or $(shell command -v nvcc 2>/dev/null),$(CUDA_HOME)/bin/nvcc)
NVCC_FLAGS := -std=c++20 -I. --expt-relaxed-constexpr -DMERV_GPU=cuda -diag-suppress 2189        # kernels/device.h: what nvcc defines need not be weak
H         := $(B)/emu-cuda
SEEN      := $(wildcard kernels/cuda/host/*.cpp tests/host/*.cpp)
HOST_OBJECTS = $(patsubst %.cpp,$(H)/obj/%.o,$(wildcard tests/host/*.cpp) tests/main.cpp) $(patsubst %.cu,$(H)/obj/%.o,$(wildcard tests/host/*.cu))
$(H)/obj/%.o: %.cpp ; @mkdir -p $(@D) ; echo "$< (emu-cuda)" ; $(CXX) $(CXXFLAGS) -DDOCTEST_CONFIG_NO_POSIX_SIGNALS -isystem $(CUDA_HOME)/include $(if $(filter $(SEEN),$<),-fsanitize=thread) -c $< -o $@ \
	$(if $(filter $(SEEN),$<),&& objcopy $(foreach f,memcpy memmove memset,--redefine-sym $f=merv_host_$f) $@)
$(H)/obj/tests/%.o: tests/%.cu ; @mkdir -p $(@D) ; echo "$< (checked)" ; $(CXX) $(EMU_FLAGS) $(checked.flags) -DMERV_GPU=emu_checked -DMERV_EMU_MODE=checked -c $< -o $@
$(H)/obj/kernels/%.o: kernels/%.cu ; @mkdir -p $(@D) ; echo "$< (emu-cuda)" ; $(CXX) $(EMU_FLAGS) $($(EMU_CUDA).flags) -DMERV_GPU=cuda -DMERV_EMULATED_RUNTIME -DMERV_EMU_MODE=$(EMU_CUDA) -c $< -o $@
EMU_CUDA     := checked
CUDA_OBJECTS  = $(patsubst %.cpp,$(H)/obj/%.o,$(wildcard kernels/cuda/host/*.cpp kernels/emu/runtime/*.cpp)) $(patsubst %.cu,$(H)/obj/%.o,$(wildcard kernels/cuda/*.cu))
$(H)/tests/all: $(patsubst %.cpp,$(B)/%.o,$(filter-out tests/main.cpp,$(TESTS))) $(EMU_MODES:%=$(E)/tests/emu_%.o) $(E)/kernels/emu_bugs.o $(HOST_OBJECTS) $(CUDA_OBJECTS) $(B)/libmerv.a ; $(link)
$(call programs,$(H),$(CUDA_OBJECTS))
# The engine's host code with mistakes in it, one of which a run chooses (tests/host/faults)
F       := $(H)/faulty
FAULTY  := $(sort $(shell sed -n 's/^[^\#].* @ [^@]* @ [^@]* @ \([^ ]*\) @ .*/\1/p' tests/host/faults/faults.txt))
FAULTY_OBJECTS := $(patsubst %.cpp,$(F)/%.o,$(filter %.cpp,$(FAULTY))) $(patsubst %.cu,$(F)/%.o,$(filter %.cu,$(FAULTY)))
$(F)/faults.h: tests/host/faults/seed.sh tests/host/faults/faults.txt $(FAULTY) ; @rm -rf $(F) ; mkdir -p $(F) ; tests/host/faults/seed.sh tests/host/faults/faults.txt $(F)
$(FAULTY_OBJECTS) $(F)/tests.o: $(F)/faults.h
$(F)/%.o: %.cpp ; @echo "$< (with faults)" ; $(CXX) -I$(F) $(CXXFLAGS) -O1 -isystem $(CUDA_HOME)/include $(if $(filter $(SEEN),$<),-fsanitize=thread) -c $(F)/$< -o $@ \
	$(if $(filter $(SEEN),$<),&& objcopy $(foreach f,memcpy memmove memset,--redefine-sym $f=merv_host_$f) $@)
$(F)/%.o: %.cu ; @echo "$< (with faults)" ; $(CXX) -I$(F) $(EMU_FLAGS) $(checked.flags) -O0 -DMERV_GPU=cuda -DMERV_EMULATED_RUNTIME -DMERV_EMU_MODE=checked -c $(F)/$< -o $@
$(F)/tests.o: tests/host/faults/faults.cpp ; @echo "$<" ; $(CXX) -I$(F) $(CXXFLAGS) -O1 -DDOCTEST_CONFIG_NO_POSIX_SIGNALS -isystem $(CUDA_HOME)/include -c $< -o $@
$(H)/tests/faults: $(FAULTY_OBJECTS) $(F)/tests.o $(H)/obj/tests/main.o $(filter-out $(FAULTY_OBJECTS:$(F)/%=$(H)/obj/%),$(CUDA_OBJECTS)) $(B)/libmerv.a ; $(link)
emu-cuda: $(BIN:$(B)/bin/%=$(H)/bin/%)
# For a card: make CUDA=1, into build/cuda. The same objects, with the kernels by nvcc and CUDA's own libraries.
C          := $(B)/cuda
REAL_CUDA   = $(patsubst %.cpp,$(C)/obj/%.o,$(wildcard kernels/cuda/host/*.cpp)) $(patsubst %.cu,$(C)/obj/%.o,$(wildcard kernels/cuda/*.cu))
CUDA_LIBS   = -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt -lcudart_static -ldl -lrt -lpthread
$(C)/obj/%.o: %.cpp ; @mkdir -p $(@D) ; echo "$< (cuda)" ; $(CXX) $(CXXFLAGS) -isystem $(CUDA_HOME)/include -c $< -o $@
$(C)/obj/%.o: %.cu ; @mkdir -p $(@D) ; echo "$< (cuda)" ; $(NVCC) $(NVCC_FLAGS) -O2 -lineinfo -MMD -MP -MF $(@:.o=.d) \
	$(if $(filter %_sm90.cu,$<),,-gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=compute_90) -gencode arch=compute_90a,code=sm_90a -c $< -o $@
$(call programs,$(C),$(REAL_CUDA),$(CUDA_LIBS))
$(C)/tests/all: $(TESTS:%.cpp=$(B)/%.o) $(EMU_MODES:%=$(E)/tests/emu_%.o) $(E)/kernels/emu_bugs.o $(REAL_CUDA) $(B)/libmerv.a ; $(link) $(CUDA_LIBS)
cuda: $(BIN:$(B)/bin/%=$(C)/bin/%)
gpu-bundle: $(C)/bin/merv-bench $(C)/tests/all ; @bench/bundle.sh
CUDA_TESTS   := $(if $(SAN),,$(if $(wildcard $(CUDA_HOME)/include/cublasLt.h),$(H)/tests/all))       # one more part of make test, where CUDA's headers are
-include $(shell find $(H) $(C)/obj -name '*.d' 2>/dev/null)

# Fuzzing: libFuzzer with AddressSanitizer and UBSan, on the parsers only.
FUZZ_FLAGS := -std=c++20 -O1 -g -I. -DMERV_EXACT_BLOCKS -MMD -MP -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-unknown-pragmas
FUZZ_LIB   := $(filter-out core/program.cpp,$(wildcard core/[!m]*.cpp weights/[!m]*.cpp $(addprefix data/,image.cpp conversations.cpp benchmarks.cpp convert.cpp) $(addprefix train/,scoring.cpp judge.cpp predictions.cpp) \
	$(addprefix models/,config.cpp gguf_model.cpp sentencepiece.cpp byte_bpe.cpp tokenizer.cpp unicode.cpp)))
build/fuzz/%.o: %.cpp ; @mkdir -p $(@D) ; echo "$< (fuzz)" ; clang++ $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -c $< -o $@
$(FUZZ:tests/fuzz/%.cpp=build/fuzz/%): build/fuzz/%: build/fuzz/tests/fuzz/%.o $(FUZZ_LIB:%.cpp=build/fuzz/%.o) ; @clang++ $(FUZZ_FLAGS) -fsanitize=fuzzer $^ -lavutil -o $@
fuzz: deps-fuzz
	@$(MAKE) --no-print-directory -j$$(nproc) $(FUZZ:tests/fuzz/%.cpp=build/fuzz/%)
	@printf '%s\n' $(FUZZ:tests/fuzz/fuzz_%.cpp=%) | xargs -P $$(nproc) -I{} tests/fuzz/run.sh {} $(FUZZ_SECONDS)
soak: ; @$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=600 && $(MAKE) --no-print-directory soak-train && $(MAKE) --no-print-directory soak-cuda
# merv-train killed 100 times, 3,000 loads of clips with damaged ones among them
soak-train: $(B)/tests/all $(BIN) ; @MERV_TEST_SOAK=1 MERV_BIN=$(B)/bin $(B)/tests/all -tc='*killed at any moment*,*memory stays flat*'
# The emulated CUDA runtime: merv-micro checked under 22 policies, host faults under three; merv-tiny with kernels in fast mode
soak-cuda: $(H)/tests/all $(H)/tests/faults
	@for p in late eager $$(seq -f random:%g 20); do printf 'merv-micro, %s: ' $$p ; MERV_CUDA_POLICY=$$p $(H)/tests/all -tc='*merv-micro*' > $(H)/soak.log || { cat $(H)/soak.log ; exit 1 ; } ; tail -n 1 $(H)/soak.log ; done
	@MERV_TEST_SOAK=1 $(H)/tests/faults
	@$(MAKE) --no-print-directory H=$(B)/emu-cuda-fast EMU_CUDA=fast $(B)/emu-cuda-fast/tests/all && MERV_TEST_SOAK=1 $(B)/emu-cuda-fast/tests/all -tc='merv-tiny on a CUDA device*'

CUBINS := $(filter-out $(B)/cuda/sm_80/%_sm90.cubin,$(foreach a,80 90a,$(patsubst %.cu,$(B)/cuda/sm_$(a)/%.cubin,$(GPU) $(wildcard tests/cuda/*.cu))))
PTX    := $(patsubst %.cu,$(B)/cuda/compute_90/%.o,$(filter-out %_sm90.cu,$(GPU)))        # for cards that come later; and host code, which a cubin has none of
$(B)/cuda/sm_%.cubin: ; @mkdir -p $(@D) ; echo "$@" ; $(NVCC) $(NVCC_FLAGS) -Xptxas -v -gencode arch=compute_$(firstword $(subst /, ,$*)),code=sm_$(firstword $(subst /, ,$*)) -cubin \
	$(patsubst $(firstword $(subst /, ,$*))/%,%,$*).cu -o $@ 2> $(@:.cubin=.log) || { cat $(@:.cubin=.log) ; exit 1 ; } ; ! grep -E 'C75[0-9]{2}' $(@:.cubin=.log)
$(B)/cuda/compute_90/%.o: %.cu ; @mkdir -p $(@D) ; echo "$@" ; $(NVCC) $(NVCC_FLAGS) -gencode arch=compute_90,code=compute_90 -c $< -o $@
cuda-check: ; @rm -rf $(B)/cuda/sm_* $(B)/cuda/compute_90 ; $(MAKE) --no-print-directory -j$$(nproc) $(CUBINS) $(PTX)

# What ptxas says of each kernel, as one line of text, and the report made of it and of the emulator's counters
define ptxas_lines
awk 'BEGIN { print "# make kernel-report: arch file registers static-shared stack spill-stores spill-loads kernel; $(notdir $(NVCC)) $(shell $(NVCC) --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p')" } \
     FNR == 1 { n = split(FILENAME, part, "/"); arch = part[n - 3]; file = part[n]; sub(/log$$/, "cu", file) } \
     /Compiling entry function/ { split($$0, quoted, "\047"); name = quoted[2] } \
     /bytes stack frame/ { spills = $$1 " " $$5 " " $$9 } \
     / Used / { shared = 0; for (i = 2; i <= NF; i++) if ($$i ~ /^smem/) shared = $$(i - 2); print arch, file, $$5, shared, spills, name }' $(1) | c++filt | \
sed -E 's/\(anonymous namespace\)::|_GLOBAL__N__[0-9A-Za-z_]*::|merv::|kernels::|cuda:://g; s/ void / /; s/^([^(#]*)\(.*/\1/' | LC_ALL=C sort
endef
bench/ptxas.txt: $(CUBINS) ; @$(call ptxas_lines,$(CUBINS:.cubin=.log)) > $@
# The tables between the marks in kernels/ladder/README.md
ladder: $(B)/bin/merv-bench
	@$(B)/bin/merv-bench ladder --device emu | awk 'NR == FNR { table = table $$0 "\n" ; next } /<!-- ladder -->/ { print ; printf "%s", table ; skip = 1 } /<!-- end -->/ { skip = 0 } !skip || 0 { if (!/<!-- ladder -->/) print }' - kernels/ladder/README.md > build/ladder.md && mv build/ladder.md kernels/ladder/README.md
kernel-report: $(B)/bin/merv-bench
	@if command -v $(NVCC) >/dev/null; then $(MAKE) --no-print-directory cuda-check && $(MAKE) --no-print-directory bench/ptxas.txt; else echo "no $(NVCC): bench/ptxas.txt stays as it is" >&2; fi
	@$(B)/bin/merv-bench ops --device emu --counters > docs/kernels.md.new && mv docs/kernels.md.new docs/kernels.md

size: ; @tests/size.sh
format: ; clang-format -i $(shell git ls-files '*.h' '*.cpp')
clean: ; rm -rf build
.PHONY: soak-cuda soak-train cuda gpu-bundle emu-cuda cuda-check kernel-report ladder all deps deps-fuzz test demo bench bench-peers fuzz soak size format clean
.DELETE_ON_ERROR:
