// What an operation is: one class, five answers. Attributes are plain members.
#pragma once
#include <concepts>
#include <memory>
#include <string_view>
#include <vector>

#include "binade/core/tensor/tensor.h"

namespace binade {

// What autocast does to an operation's floating inputs (f64 and integers are never touched).
enum class Precision {
  low,          // cast to the autocast dtype: matrix products, convolution, attention
  low_input,    // as low, but the result is f32: a product and the loss of its result
  full,         // cast to f32: losses, softmax, norms, exp, log, pow
  full_output,  // as full: sums, whose result must not be rounded to 16 bits
  widest,       // the widest input wins, with or without autocast: add, where, cat
  as_is,        // never touched: casts, views, relu
};
std::string_view name(Precision precision);

// What forward keeps for backward. Tensors are held outside the graph, with the version they had.
class Saved {
 public:
  explicit Saved(std::string_view owner = "operation") : owner_(owner) {}  // named in errors
  void save(const Tensor& x);                     // undefined tensors are allowed
  Tensor operator[](std::size_t i) const;         // throws when the tensor was changed in place since
  // A place for a gradient of that tensor, contiguous: its own memory where nobody will read it again, else new memory.
  // Kernels that read and write element by element then touch a third less memory.
  Tensor place_for_gradient(std::size_t i) const;
  std::size_t size() const { return items_.size(); }
  void clear() { items_.clear(); }
  void set_last_use(bool last) { last_use_ = last; }  // backward will not come again

 private:
  struct Item {
    Tensor tensor;
    std::uint64_t version;
  };
  std::string_view owner_;
  std::vector<Item> items_;
  bool last_use_ = false;
};

// Where backward delivers. Gradients nobody wants can be skipped; a gradient may have any floating dtype and is
// converted to its input's. An FP32 leaf's gradient is written, or accumulated, straight where it belongs.
class Gradients {
 public:
  struct Target {
    Tensor tensor;    // write the gradient here, with the input's shape, contiguous
    bool accumulate;  // add to what is there instead of overwriting
  };
  virtual bool wanted(std::size_t input) const = 0;
  virtual void put(std::size_t input, const Tensor& gradient) = 0;  // hands over a finished gradient
  virtual Target target(std::size_t input) = 0;  // once per input, instead of put()
  // As target(), but in the dtype of the input, and it may be the sum of what later operations delivered to that input:
  // for kernels that add at no cost.
  virtual Target sum_target(std::size_t input) = 0;
  // As target(), but always to be overwritten: the engine adds it to what is there, together with others of the pass.
  // For short gradients of kernels that cannot add.
  virtual Tensor late_target(std::size_t input) = 0;
 protected:
  ~Gradients() = default;
};

struct Op {
  virtual ~Op() = default;
  virtual std::string_view name() const = 0;
  virtual Precision precision() const = 0;
  virtual Spec infer(Inputs in) const = 0;                    // shape and dtype rule; rejects bad inputs
  virtual Tensor forward(Inputs in, Saved& saved) const = 0;  // calls kernel slots
  virtual void backward(const Saved& saved, const Tensor& dy, Gradients& out) const = 0;
  // Whether Precision::widest promotes this input too (where's condition stays bool).
  virtual bool promotes(std::size_t /*input*/) const { return true; }
  // Whether forward reads this input in any dtype that the promoted one holds exactly: it is then not cast.
  virtual bool widens(std::size_t /*input*/) const { return false; }
  // Whether the result is recorded though no input requires gradients (checkpoint: parameters are captured).
  virtual bool always_recorded() const { return false; }
  // Whether forward changes more than its result (running statistics), so that it must not run a second time.
  virtual bool changes_state() const { return false; }
  virtual Tensor reference(Inputs in) const = 0;  // f64 in, f64 out, plain loops: the meaning of the operation
};
using OpPtr = std::shared_ptr<const Op>;

// The one door every operation goes through. An undefined input stands for an optional argument that was not given.
Tensor run(OpPtr op, Tensors in);
template <std::derived_from<Op> O>
Tensor run(O op, Tensors in) {
  return run(std::make_shared<const O>(std::move(op)), std::move(in));
}

}  // namespace binade
