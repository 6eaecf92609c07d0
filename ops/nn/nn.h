// Modules, layers and the GPT model.
#pragma once
#include "binade/ops/nn/fp8.h"
#include "binade/ops/nn/init.h"
#include "binade/ops/nn/layers.h"
#include "binade/ops/nn/module.h"
#include "binade/ops/nn/sequential.h"
#include "binade/ops/nn/transformer.h"
