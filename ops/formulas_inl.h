// The text of the elementwise formulas, included by formulas.h and, once per SIMD target, inside that target's
// namespace: code compiled for one instruction set cannot call templates compiled for another. No include guard.

// ---- shared pieces -------------------------------------------------------------------------------------------------
template <class V>
BINADE_FORMULA V logistic(V x) {
  return V(1.0) / (V(1.0) + exp(-x));
}
template <class V>  // derivative of the logistic function, without cancellation at either end
BINADE_FORMULA V logistic_slope(V x) {
  const V e = exp(-abs(x));
  const V d = V(1.0) + e;
  return e / (d * d);
}
template <class V>
struct Logistic {
  V value, slope;
};
template <class V>  // both from one exponential
BINADE_FORMULA Logistic<V> logistic_and_slope(V x) {
  const V e = exp(-abs(x));
  const V t = V(1.0) / (V(1.0) + e);
  return {select(x < V(0.0), e * t, t), e * t * t};
}
template <class V>
BINADE_FORMULA V sign_of(V x) {
  return select(x > V(0.0), V(1.0), select(x < V(0.0), V(-1.0), x));  // 0 and NaN give themselves
}
template <class V>  // distribution function of the standard normal
BINADE_FORMULA V normal_cdf(V x) {
  return V(0.5) * erfc(x * V(-0.70710678118654752440));
}
template <class V>
BINADE_FORMULA V power(V x, double exponent) {
  if (exponent == 0) return V(1.0);
  if (exponent == 1) return x;
  if (exponent == 2) return x * x;
  if (exponent == 3) return x * x * x;
  if (exponent == -1) return V(1.0) / x;
  if (exponent == 0.5) return sqrt(x);
  return pow(x, V(exponent));
}

// ---- unary: y = forward(x, args), dx = backward(x, dy, args) ---------------------------------------------------------
struct Neg {
  static constexpr std::string_view name = "neg";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return -x; }
  template <class V>
  BINADE_FORMULA static V backward(V, V dy, kernel::FormulaArgs) { return -dy; }
};

struct Abs {
  static constexpr std::string_view name = "abs";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return abs(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return sign_of(x) * dy; }
};

struct Exp {
  static constexpr std::string_view name = "exp";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return exp(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return dy * exp(x); }
};

struct Log {
  static constexpr std::string_view name = "log";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return log(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return dy / x; }
};

struct Sqrt {
  static constexpr std::string_view name = "sqrt";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return sqrt(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return V(0.5) * dy / sqrt(x); }
};

struct Rsqrt {
  static constexpr std::string_view name = "rsqrt";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return V(1.0) / sqrt(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return V(-0.5) * dy / (x * sqrt(x)); }
};

struct Tanh {
  static constexpr std::string_view name = "tanh";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return tanh(x); }
  template <class V>  // 1 - tanh(x)^2 = 4 logistic'(2x)
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return V(4.0) * dy * logistic_slope(x + x); }
};

struct Sigmoid {
  static constexpr std::string_view name = "sigmoid";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return logistic(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return dy * logistic_slope(x); }
};

struct Relu {
  static constexpr std::string_view name = "relu";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return select(x <= V(0.0), V(0.0), x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) { return select(x <= V(0.0), V(0.0), dy); }
};

struct LeakyRelu {  // a: slope for x < 0
  static constexpr std::string_view name = "leaky_relu";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs args) { return select(x > V(0.0), x, V(args.a) * x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs args) {
    return select(x > V(0.0), dy, V(args.a) * dy);
  }
};

struct GeluErf {  // x Phi(x)
  static constexpr std::string_view name = "gelu_erf";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return x * normal_cdf(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) {
    const V density = V(0.39894228040143267794) * exp(V(-0.5) * x * x);
    return dy * (normal_cdf(x) + x * density);
  }
};

// x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), as x logistic(2u): 1 + tanh cancels in the tail.
struct GeluTanh {
  static constexpr std::string_view name = "gelu_tanh";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return x * logistic(twice_u(x)); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) {
    // Beyond 20 the slope is 0 or 1; bounded, so that x^3 does not overflow and meet a zero.
    const V z = select(x > V(20.0), V(20.0), select(x < V(-20.0), V(-20.0), x));
    const V u = twice_u(z);
    const V slope = V(1.5957691216057307) * (V(1.0) + V(0.134145) * z * z);
    const Logistic<V> s = logistic_and_slope(u);
    return dy * (s.value + z * s.slope * slope);
  }
  template <class V>
  BINADE_FORMULA static V twice_u(V x) {
    return V(1.5957691216057307) * x * (V(1.0) + V(0.044715) * x * x);
  }
};

struct Silu {
  static constexpr std::string_view name = "silu";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs) { return x * logistic(x); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs) {
    const Logistic<V> s = logistic_and_slope(x);
    return dy * (s.value + x * s.slope);
  }
};

struct Clamp {  // to [a, b]
  static constexpr std::string_view name = "clamp";
  static constexpr Precision precision = Precision::as_is;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs args) {
    return select(x < V(args.a), V(args.a), select(x > V(args.b), V(args.b), x));
  }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs args) {
    return select((x < V(args.a)) | (x > V(args.b)), V(0.0), dy);
  }
};

struct PowScalar {  // x^a
  static constexpr std::string_view name = "pow_scalar";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V x, kernel::FormulaArgs args) { return power(x, args.a); }
  template <class V>
  BINADE_FORMULA static V backward(V x, V dy, kernel::FormulaArgs args) {
    if (args.a == 0) return V(0.0);
    return dy * V(args.a) * power(x, args.a - 1);
  }
};

// ---- binary: y = forward(a, b); backward sets da and db ---------------------------------------------------------------
struct Add {
  static constexpr std::string_view name = "add";
  static constexpr Precision precision = Precision::widest;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return a + b; }
  template <class V>
  BINADE_FORMULA static void backward(V, V, V dy, V& da, V& db) { da = db = dy; }
};

struct Sub {
  static constexpr std::string_view name = "sub";
  static constexpr Precision precision = Precision::widest;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return a - b; }
  template <class V>
  BINADE_FORMULA static void backward(V, V, V dy, V& da, V& db) {
    da = dy;
    db = -dy;
  }
};

struct Mul {
  static constexpr std::string_view name = "mul";
  static constexpr Precision precision = Precision::widest;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return a * b; }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) {
    da = dy * b;
    db = dy * a;
  }
};

struct Div {
  static constexpr std::string_view name = "div";
  static constexpr Precision precision = Precision::widest;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return a / b; }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) {
    da = dy / b;
    db = -(dy * (a / b)) / b;
  }
};

struct Pow {
  static constexpr std::string_view name = "pow";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return pow(a, b); }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) {
    da = select(b == V(0.0), V(0.0), dy * b * pow(a, b - V(1.0)));
    db = select((a == V(0.0)) & (b >= V(0.0)), V(0.0), dy * pow(a, b) * log(a));  // 0^b is constant in b > 0
  }
};

struct Maximum {  // the gradient is shared half and half at ties; NaN propagates
  static constexpr std::string_view name = "maximum";
  static constexpr Precision precision = Precision::widest;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return select((a > b) | is_nan(a), a, b); }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) {
    const V half = V(0.5) * dy;
    da = select(a > b, dy, select(a == b, half, V(0.0)));
    db = select(b > a, dy, select(a == b, half, V(0.0)));
  }
};

struct Minimum {
  static constexpr std::string_view name = "minimum";
  static constexpr Precision precision = Precision::widest;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return select((a < b) | is_nan(a), a, b); }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) { Maximum::backward(b, a, dy, da, db); }
};

struct SquaredError {
  static constexpr std::string_view name = "squared_error";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return (a - b) * (a - b); }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) {
    da = V(2.0) * (a - b) * dy;
    db = -da;
  }
};

struct AbsoluteError {
  static constexpr std::string_view name = "absolute_error";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) { return abs(a - b); }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) {
    da = sign_of(a - b) * dy;
    db = -da;
  }
};

struct BceWithLogits {  // a: logit, b: target; -b log(logistic(a)) - (1 - b) log(1 - logistic(a)) without overflow
  static constexpr std::string_view name = "bce_with_logits";
  static constexpr Precision precision = Precision::full;
  template <class V>
  BINADE_FORMULA static V forward(V a, V b) {
    return select(a < V(0.0), V(0.0), a) - a * b + log1p(exp(-abs(a)));
  }
  template <class V>
  BINADE_FORMULA static void backward(V a, V b, V dy, V& da, V& db) {
    da = (logistic(a) - b) * dy;
    db = -a * dy;
  }
};

// ---- comparisons ---------------------------------------------------------------------------------------------------------
struct Eq {
  static constexpr std::string_view name = "eq";
  template <class V>
  BINADE_FORMULA static bool holds(V a, V b) { return a == b; }
};
struct Ne {
  static constexpr std::string_view name = "ne";
  template <class V>
  BINADE_FORMULA static bool holds(V a, V b) { return a != b; }
};
struct Lt {
  static constexpr std::string_view name = "lt";
  template <class V>
  BINADE_FORMULA static bool holds(V a, V b) { return a < b; }
};
struct Le {
  static constexpr std::string_view name = "le";
  template <class V>
  BINADE_FORMULA static bool holds(V a, V b) { return a <= b; }
};
struct Gt {
  static constexpr std::string_view name = "gt";
  template <class V>
  BINADE_FORMULA static bool holds(V a, V b) { return a > b; }
};
struct Ge {
  static constexpr std::string_view name = "ge";
  template <class V>
  BINADE_FORMULA static bool holds(V a, V b) { return a >= b; }
};

// ---- the lists: body.template operator()<Formula>() for each, always in this order ----------------------------------------
template <class... Formulas, class Body>
void for_each_formula(const Body& body) {
  (body.template operator()<Formulas>(), ...);
}
template <class Body>
void for_each_unary(const Body& body) {
  for_each_formula<Neg, Abs, Exp, Log, Sqrt, Rsqrt, Tanh, Sigmoid, Relu, LeakyRelu, GeluErf, GeluTanh, Silu, Clamp,
                   PowScalar>(body);
}
inline constexpr int unary_formulas = 15;
template <class Body>
void for_each_binary(const Body& body) {
  for_each_formula<Add, Sub, Mul, Div, Pow, Maximum, Minimum, SquaredError, AbsoluteError, BceWithLogits>(body);
}
inline constexpr int binary_formulas = 10;
template <class Body>
void for_each_compare(const Body& body) {
  for_each_formula<Eq, Ne, Lt, Le, Gt, Ge>(body);
}
