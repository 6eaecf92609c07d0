// Specifications as graphs of cudnn-frontend: the only file that includes it (it takes most of a minute to compile).
// Plans are built from properties of the GPU, not from a handle: a machine without one builds them from a description.
// Only engines that give the same bits each time and sum in FP32 are taken.
#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <utility>

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>

#include "binade/core/base/error.h"
#include "binade/cuda/libs/cudnn_plans.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // where the frontend finds cuDNN; open_cudnn() sets it
}

namespace binade::cuda {

namespace {

namespace fe = cudnn_frontend;
using Attributes = fe::graph::Tensor_attributes;
using TensorHandle = std::shared_ptr<Attributes>;

void open_cudnn() {
  static std::once_flag opened;
  std::call_once(opened, [] {
    const std::string name = "libcudnn.so." + std::to_string(CUDNN_MAJOR);
    fe::cudnn_dlhandle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    check(fe::cudnn_dlhandle != nullptr, "cuDNN: ", name,
          " is missing: install cuDNN (PyPI: nvidia-cudnn-cu13) and add it ", "to LD_LIBRARY_PATH: ", dlerror());
  });
}

// Runs body(), whose exceptions become Errors: the frontend throws for libraries and symbols that are missing.
template <class Body>
auto guarded(const Body& body) {
  try {
    open_cudnn();
    return body();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail({"cuDNN: ", error.what()});
  }
}
void fe_check(fe::error_t status, std::string_view what) {
  check(status.is_good(), "cuDNN: ", what, ": ", status.get_message());
}

fe::DataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return fe::DataType_t::FLOAT;
    case DType::f16:
      return fe::DataType_t::HALF;
    case DType::bf16:
      return fe::DataType_t::BFLOAT16;
    case DType::i32:
      return fe::DataType_t::INT32;
    default:
      fail({"cuDNN: no plans of ", to_text(dtype)});
  }
}
DType dtype_of(fe::DataType_t type) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i32})
    if (data_type(dtype) == type) return dtype;
  fail({"cuDNN: a plan has a tensor of unknown dtype"});
}

std::vector<std::int64_t> list(const auto& numbers) { return {numbers.begin(), numbers.end()}; }

// Names a tensor by its place among the specification's, from 1.
void describe(Attributes& to, const PlanTensor& from, std::int64_t place) {
  to.set_dim(list(from.dims)).set_stride(list(from.strides)).set_data_type(data_type(from.dtype)).set_uid(place);
}

template <class Node>
Node convolution(const ConvGeometry& g) {
  return Node().set_padding(list(g.padding)).set_stride(list(g.stride)).set_dilation(list(g.dilation));
}

// A specification's tensors enter a graph in their order, results when their operation is there.
class Translation {
 public:
  explicit Translation(fe::graph::Graph& graph) : graph_(graph) {}

  void operator()(const SdpaForward& s) {
    const TensorHandle q = input(s.q), k = input(s.k), v = input(s.v);
    auto attributes = fe::graph::SDPA_attributes().set_name("sdpa").set_generate_stats(true);
    attributes.set_causal_mask(s.causal).set_attn_scale(static_cast<float>(s.scale));
    set_lengths(attributes, s);
    const auto [o, lse] = graph_.sdpa(q, k, v, attributes);
    output(o, s.o);
    output(lse, s.lse);
  }
  void operator()(const SdpaBackward& s) {
    const TensorHandle q = input(s.q), k = input(s.k), v = input(s.v), o = input(s.o), d_o = input(s.d_o),
                       lse = input(s.lse);
    auto attributes = fe::graph::SDPA_backward_attributes().set_name("sdpa_backward");
    attributes.set_causal_mask(s.causal).set_deterministic_algorithm(true);
    attributes.set_attn_scale(static_cast<float>(s.scale));
    set_lengths(attributes, s);
    const auto [dq, dk, dv] = graph_.sdpa_backward(q, k, v, o, d_o, lse, attributes);
    output(dq, s.dq);
    output(dk, s.dk);
    output(dv, s.dv);
  }
  void operator()(const ConvForward& s) {
    const TensorHandle x = input(s.x), weight = input(s.weight);
    const TensorHandle bias = s.bias.given ? input(s.bias) : nullptr;
    TensorHandle y = graph_.conv_fprop(x, weight, convolution<fe::graph::Conv_fprop_attributes>(s.geometry));
    const auto in_float = [&] {
      y->set_dim(list(s.y.dims)).set_stride(list(s.y.strides)).set_data_type(fe::DataType_t::FLOAT);
    };
    if (bias) {
      in_float();
      y = graph_.pointwise(y, bias, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
    }
    if (s.relu) {
      in_float();
      y = graph_.pointwise(y, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::RELU_FWD));
    }
    output(y, s.y);
  }
  void operator()(const ConvDataGradient& s) {
    const TensorHandle dy = input(s.dy), weight = input(s.weight);
    output(graph_.conv_dgrad(dy, weight, convolution<fe::graph::Conv_dgrad_attributes>(s.geometry)), s.dx);
  }
  void operator()(const ConvWeightGradient& s) {
    const TensorHandle x = input(s.x), dy = input(s.dy);
    output(graph_.conv_wgrad(dy, x, convolution<fe::graph::Conv_wgrad_attributes>(s.geometry)), s.dweight);
  }
  void operator()(const BatchNormForward& s) {
    const TensorHandle x = input(s.x), scale = input(s.scale), bias = input(s.bias);
    TensorHandle eps = graph_.tensor(static_cast<float>(s.eps));
    auto attributes = fe::graph::Batchnorm_attributes().set_epsilon(eps);
    if (s.running_mean.given) {
      TensorHandle mean = input(s.running_mean), var = input(s.running_var);
      TensorHandle momentum = graph_.tensor(static_cast<float>(s.momentum));
      attributes.set_previous_running_stats(mean, var, momentum);
    }
    const auto [y, mean, rstd, next_mean, next_var] = graph_.batchnorm(x, scale, bias, attributes);
    output(y, s.y);
    output(mean, s.mean);
    output(rstd, s.rstd);
    if (!s.running_mean.given) return;
    output(next_mean, s.next_mean);
    output(next_var, s.next_var);
  }
  void operator()(const BatchNormBackward& s) {
    const TensorHandle dy = input(s.dy), x = input(s.x), scale = input(s.scale);
    TensorHandle mean = input(s.mean), rstd = input(s.rstd);
    const auto [dx, dscale, dbias] = graph_.batchnorm_backward(
        dy, x, scale, fe::graph::Batchnorm_backward_attributes().set_saved_mean_and_inv_variance(mean, rstd));
    output(dx, s.dx);
    output(dscale, s.dscale);
    output(dbias, s.dbias);
  }

 private:
  void set_lengths(auto& attributes, const auto& s) {
    if (s.q_lengths.given) attributes.set_padding_mask(true).set_seq_len_q(input(s.q_lengths));
    if (s.kv_lengths.given) attributes.set_padding_mask(true).set_seq_len_kv(input(s.kv_lengths));
  }
  TensorHandle input(const PlanTensor& tensor) {
    Attributes attributes;
    describe(attributes, tensor, ++place_);
    return graph_.tensor(attributes);
  }
  void output(const TensorHandle& handle, const PlanTensor& tensor) {
    describe(handle->set_output(true), tensor, ++place_);
  }
  fe::graph::Graph& graph_;
  std::int64_t place_ = 0;
};

class FrontendPlan : public Plan {
 public:
  FrontendPlan(std::unique_ptr<fe::graph::Graph> graph, std::size_t tensors, std::string engine)
      : graph_(std::move(graph)), tensors_(tensors), engine_(std::move(engine)) {
    fe_check(graph_->get_workspace_size(workspace_), "workspace size");
  }
  std::size_t workspace_bytes() const override { return static_cast<std::size_t>(workspace_); }
  std::string engine() const override { return engine_; }
  std::vector<PlanTensor> tensors() const override {
    std::vector<PlanTensor> all;
    for (std::size_t i = 0; i < tensors_; ++i) {
      Attributes found;
      fe_check(graph_->query_tensor_attributes_of_uid(static_cast<std::int64_t>(i) + 1, found), "tensor of a plan");
      PlanTensor tensor{true, dtype_of(found.get_data_type()), {}, {}};
      check(found.get_dim().size() == 4 && found.get_stride().size() == 4, "cuDNN: a tensor without four dims");
      std::copy_n(found.get_dim().begin(), 4, tensor.dims.begin());
      std::copy_n(found.get_stride().begin(), 4, tensor.strides.begin());
      all.push_back(tensor);
    }
    return all;
  }
  std::vector<std::uint8_t> serialize() const override {  // the engine's name, a zero, the library's bytes
    return guarded([&] {
      std::vector<std::uint8_t> bytes;
      fe_check(graph_->serialize(bytes), "serialize a plan");
      bytes.insert(bytes.begin(), engine_.c_str(), engine_.c_str() + engine_.size() + 1);
      return bytes;
    });
  }
  void execute(cudaStream_t stream, std::span<void* const> pointers, void* workspace) const override {
    guarded([&] {
      std::unordered_map<std::int64_t, void*> by_place;
      for (std::size_t i = 0; i < pointers.size(); ++i) by_place[static_cast<std::int64_t>(i) + 1] = pointers[i];
      const std::lock_guard lock(handles().mutex);  // a handle serves one call at a time
      fe_check(graph_->execute(handle_on(stream), by_place, workspace), "execute " + engine_);
    });
  }

 private:
  struct Handles {
    std::mutex mutex;
    std::unordered_map<int, cudnnHandle_t> of_device;
  };
  static Handles& handles() {
    static auto* all = new Handles;  // never destroyed: the driver may be gone before static destructors run
    return *all;
  }
  // The current device's handle, on this stream. The mutex is held.
  static cudnnHandle_t handle_on(cudaStream_t stream) {
    int device = 0;
    check(cudaGetDevice(&device) == cudaSuccess, "cuDNN: no current device");
    cudnnHandle_t& handle = handles().of_device[device];
    if (!handle) check(fe::detail::create_handle(&handle) == CUDNN_STATUS_SUCCESS, "cuDNN: no handle could be made");
    check(fe::detail::set_stream(handle, stream) == CUDNN_STATUS_SUCCESS, "cuDNN: the stream could not be set");
    return handle;
  }

  std::unique_ptr<fe::graph::Graph> graph_;
  std::size_t tensors_;
  std::int64_t workspace_ = 0;
  std::string engine_;
};

std::shared_ptr<fe::DeviceProperties> library_properties(const PlanGpu& gpu) {
  auto properties = std::make_shared<fe::DeviceProperties>();
  if (gpu.device) {
    fe_check(properties->set_device_id(gpu.device->index).build(), "ask for device properties");
  } else {
    fe_check(properties->deserialize({gpu.properties.begin(), gpu.properties.end()}), "device properties");
  }
  return properties;
}

std::unique_ptr<fe::graph::Graph> empty_graph(const PlanGpu& gpu) {
  auto graph = std::make_unique<fe::graph::Graph>();
  const int architecture = nlohmann::json::parse(gpu.properties).at("deviceVer");  // 890: compute capability 8.9
  graph->set_device_properties(library_properties(gpu)).set_sm_version(architecture / 10);
  graph->set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

}  // namespace

std::string plan_library() {
  return guarded([] {
    return "cuDNN " + std::to_string(fe::detail::get_backend_version()) + ", cudnn-frontend " +
           std::to_string(CUDNN_FRONTEND_VERSION);
  });
}

PlanGpu plan_gpu(Device device) {
  return guarded([&]() -> PlanGpu {
    std::vector<std::uint8_t> json;
    fe_check(library_properties({{}, device})->serialize(json), "device properties");
    std::string text(json.begin(), json.end());
    while (!text.empty() && text.back() == '\0') text.pop_back();
    return {text, device};
  });
}

std::unique_ptr<Plan> build_plan(const PlanSpec& spec, const PlanGpu& gpu) {
  return guarded([&]() -> std::unique_ptr<Plan> {
    auto graph = empty_graph(gpu);
    std::visit(Translation(*graph), spec);
    const std::string text = to_text(spec);
    fe_check(graph->validate(), text);
    fe_check(graph->build_operation_graph(), text);
    fe_check(graph->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}), text);
    using Note = fe::NumericalNote_t;
    graph->deselect_numeric_notes({Note::NONDETERMINISTIC, Note::DOWN_CONVERT_INPUTS, Note::REDUCED_PRECISION_REDUCTION,
                                   Note::FFT, Note::WINOGRAD, Note::WINOGRAD_TILE_4x4, Note::WINOGRAD_TILE_6x6,
                                   Note::WINOGRAD_TILE_13x13});
    fe_check(graph->check_support(), text);
    fe_check(graph->build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), text);
    std::string engine;
    fe_check(graph->get_plan_name(engine), text);
    return std::make_unique<FrontendPlan>(std::move(graph), tensors_of(spec).size(), engine);
  });
}

std::unique_ptr<Plan> restore_plan(const PlanSpec& spec, const PlanGpu& gpu, std::span<const std::uint8_t> serialized) {
  return guarded([&]() -> std::unique_ptr<Plan> {
    auto graph = empty_graph(gpu);
    const auto end_of_name = std::find(serialized.begin(), serialized.end(), 0);
    check(end_of_name != serialized.end(), "cuDNN: a serialized plan is damaged");
    fe_check(graph->deserialize(std::vector<std::uint8_t>(end_of_name + 1, serialized.end())), "restore a plan");
    return std::make_unique<FrontendPlan>(std::move(graph), tensors_of(spec).size(),
                                          std::string(serialized.begin(), end_of_name));
  });
}

}  // namespace binade::cuda
