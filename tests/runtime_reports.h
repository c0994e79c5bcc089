// How much the emulated CUDA runtime has reported in this process; 0 in programs without it.
#pragma once

namespace merv::emulated_runtime { [[gnu::weak]] int reports_so_far(); }
namespace merv::test { inline int runtime_reports() { return emulated_runtime::reports_so_far ? emulated_runtime::reports_so_far() : 0; } }
