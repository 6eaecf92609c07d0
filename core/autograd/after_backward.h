// Work for the end of a backward pass: what a gradient hook cannot finish alone.
#pragma once
#include <cstdint>
#include <functional>

namespace binade {

// For hooks: runs `function` once the backward() in progress on this thread has delivered every gradient, before it
// returns, in the order of the calls. What it throws, backward() throws. A pass that fails half-way forgets it. A pass
// inside another one's operation (checkpoint) belongs to that. Throws Error outside of backward().
void after_backward(std::function<void()> function);
std::uint64_t backward_pass();  // the number of the pass in progress on this thread, from 1; 0: none

}  // namespace binade
