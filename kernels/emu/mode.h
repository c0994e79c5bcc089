// How the emulator runs kernels: emulator.h says what each mode finds. Apart, because every op's header needs this much.
#pragma once

namespace merv::emu {

enum class Mode { fast, checked, counted };

}
