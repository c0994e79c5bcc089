// The cache in which Hugging Face's tools keep what they downloaded. Only looked into: nothing is ever downloaded here.
// Layout: https://huggingface.co/docs/hub/local-cache
#pragma once
#include <string>

namespace merv {

// $HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
std::string hub_cache();

// A path that exists stays as it is. "org/name" or "org/name/inner/folder" becomes the snapshot that the cache's refs/main names.
// Error(Exit::bad_weights) that says where was looked and what to do. `what` opens the message ("--llm").
std::string find_model(const std::string& path_or_id, const std::string& what);

}
