// SPDX-License-Identifier: Apache-2.0
// What `halfmoon bench` was asked for.
#pragma once

#include <string>
#include <vector>

#include "apps/halfmoon/bench_case.h"
#include "apps/halfmoon/model_options.h"

namespace halfmoon::app {

struct BenchOptions {
  ModelOptions model;               ///< its `model` is the one of `models` that is at hand
  std::vector<std::string> models;  ///< as named on the command line
  CaseRequest cases;
  int decode_tokens = 32;  ///< of each sequence, in one pass
  int passes = 5;          ///< counted ones of a case, or of a turn beside a peer
  bool json = false;
  bool machine = false;  ///< only the machine, no model

  std::string compare;      ///< the peer; empty: none
  std::string peer_python;  ///< empty: an environment of our own is made
  int rounds = 5;
  int start_rounds = 9;
  bool raise_priority = true;
  std::string markdown;       ///< a file for the table; empty: none
  int answer_limit_s = 1800;  ///< for one answer of a worker
};

/// The only model. Prints what it measures. Returns an exit code.
int BenchModel(const BenchOptions& options);

/// All of options.models beside options.compare. Returns an exit code.
int BenchBesidePeer(const BenchOptions& options);

}  // namespace halfmoon::app
