// A picture of what the encoders are shown of a clip: a row of frames for the source and for each encoder, as in `merv-data show`.
#pragma once
#include "models/merv.h"

namespace merv::train {

struct SheetOptions {
    int per_line = 16, side = 112;              // frames beside each other; none is drawn larger than side x side, larger ones are resized
};
// u8 (H, W, 3). The source's different frames, then what look() gave for `clip`, each frame with its number in the source.
Tensor contact_sheet(const Clip& clip, const Merv& merv, const std::vector<Shown>& shown, const SheetOptions& options = {16, 112});

// u8 (F, 3, S, S), or LanguageBind's normalised f32, as an encoder is shown it -> u8 (F, S, S, 3), normalisation undone and rounded.
Tensor visible(const Tensor& pixels);

}
