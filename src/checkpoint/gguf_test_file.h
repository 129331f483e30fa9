// SPDX-License-Identifier: Apache-2.0
// For tests: builds GGUF files byte by byte, right ones and wrong ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/gguf.h"

namespace halfmoon::checkpoint {

class GgufTestFile {
 public:
  uint32_t version = 3;
  uint64_t extra_tensor_count = 0;  ///< Announced beyond those that are there.
  uint64_t extra_value_count = 0;
  size_t alignment = 32;  ///< Used for padding; announced only if a value says so.

  GgufTestFile& U32(std::string_view key, uint32_t value) {
    return Scalar(key, GgufType::kU32, value);
  }
  GgufTestFile& F32(std::string_view key, float value) {
    return Scalar(key, GgufType::kF32, value);
  }
  GgufTestFile& Bool(std::string_view key, bool value) {
    return Scalar(key, GgufType::kBool, static_cast<uint8_t>(value));
  }
  GgufTestFile& String(std::string_view key, std::string_view value) {
    Key(key, GgufType::kString);
    PutString(&values_, value);
    return *this;
  }
  GgufTestFile& Strings(std::string_view key, const std::vector<std::string>& elements) {
    Array(key, GgufType::kString, elements.size());
    for (const std::string& s : elements) PutString(&values_, s);
    return *this;
  }
  template <typename T>
  GgufTestFile& Numbers(std::string_view key, GgufType type, const std::vector<T>& elements) {
    Array(key, type, elements.size());
    for (const T& e : elements) Put(&values_, e);
    return *this;
  }
  template <typename T>
  GgufTestFile& Scalar(std::string_view key, GgufType type, T value) {
    Key(key, type);
    Put(&values_, value);
    return *this;
  }
  /// A value whose bytes are given: type, then `payload`.
  GgufTestFile& Raw(std::string_view key, uint32_t type, std::string_view payload) {
    PutString(&values_, key);
    Put(&values_, type);
    values_ += payload;
    ++num_values_;
    return *this;
  }

  /// `dims` outermost first. Data is filled with `fill`, or with 1, 2, 3.. in tensors of F32.
  GgufTestFile& Tensor(std::string_view name, const std::vector<uint64_t>& dims,
                       uint32_t type = 0) {
    size_t elements = 1;
    for (const uint64_t dim : dims) elements *= dim;
    std::string data;
    if (type == 0) {
      for (size_t i = 1; i <= elements; ++i) Put(&data, static_cast<float>(i));
    } else {
      // 18 bytes for every 32 values: enough for Q4_0, the only other type that tests store this
      // way.
      data.assign(elements / 32 * 18, '\1');
    }
    return TensorAt(name, dims, type, data_.size(), data);
  }
  GgufTestFile& TensorAt(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                         uint64_t offset, std::string_view data) {
    PutString(&infos_, name);
    Put(&infos_, static_cast<uint32_t>(dims.size()));
    for (size_t i = dims.size(); i-- > 0;) Put(&infos_, dims[i]);
    Put(&infos_, type);
    Put(&infos_, offset);
    ++num_tensors_;
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }

  std::string Build() const {
    std::string file = "GGUF";
    Put(&file, version);
    Put(&file, num_tensors_ + extra_tensor_count);
    Put(&file, num_values_ + extra_value_count);
    file += values_;
    file += infos_;
    file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
    return file + data_;
  }

  static void PutString(std::string* out, std::string_view text) {
    Put(out, static_cast<uint64_t>(text.size()));
    *out += text;
  }
  template <typename T>
  static void Put(std::string* out, T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out->append(bytes, sizeof(T));
  }

 private:
  void Key(std::string_view key, GgufType type) {
    PutString(&values_, key);
    Put(&values_, static_cast<uint32_t>(type));
    ++num_values_;
  }
  void Array(std::string_view key, GgufType type, size_t count) {
    Key(key, GgufType::kArray);
    Put(&values_, static_cast<uint32_t>(type));
    Put(&values_, static_cast<uint64_t>(count));
  }

  std::string values_, infos_, data_;
  uint64_t num_values_ = 0;
  uint64_t num_tensors_ = 0;
};

inline std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A complete small model of `architecture`: H 64, 2 heads of 32, 1 KV head, 2 layers, V 96.
inline GgufTestFile SmallGgufModel(const std::string& architecture, uint32_t num_experts = 0) {
  GgufTestFile file;
  const auto key = [&](std::string_view name) { return architecture + "." + std::string(name); };
  file.String("general.architecture", architecture);
  file.U32(key("block_count"), 2).U32(key("context_length"), 512).U32(key("embedding_length"), 64);
  file.U32(key("feed_forward_length"), 128).U32(key("attention.head_count"), 2);
  file.U32(key("attention.head_count_kv"), 1);
  file.F32(key("attention.layer_norm_rms_epsilon"), 1e-6f).F32(key("rope.freq_base"), 1e6f);
  if (num_experts > 0) {
    file.U32(key("expert_count"), num_experts).U32(key("expert_used_count"), 2);
    if (architecture == "qwen3moe") file.U32(key("expert_feed_forward_length"), 32);
  }
  file.Tensor("token_embd.weight", {96, 64}).Tensor("output_norm.weight", {64});
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    file.Tensor(prefix + "attn_norm.weight", {64}).Tensor(prefix + "ffn_norm.weight", {64});
    file.Tensor(prefix + "attn_q.weight", {64, 64}).Tensor(prefix + "attn_k.weight", {32, 64});
    file.Tensor(prefix + "attn_v.weight", {32, 64}).Tensor(prefix + "attn_output.weight", {64, 64});
    if (architecture != "llama") {
      file.Tensor(prefix + "attn_q_norm.weight", {32}).Tensor(prefix + "attn_k_norm.weight", {32});
    }
    if (num_experts == 0) {
      file.Tensor(prefix + "ffn_gate.weight", {128, 64}, 2)
          .Tensor(prefix + "ffn_up.weight", {128, 64});
      file.Tensor(prefix + "ffn_down.weight", {64, 128});
    } else {
      file.Tensor(prefix + "ffn_gate_inp.weight", {num_experts, 64});
      file.Tensor(prefix + "ffn_gate_exps.weight", {num_experts, 32, 64}, 2);
      file.Tensor(prefix + "ffn_up_exps.weight", {num_experts, 32, 64});
      file.Tensor(prefix + "ffn_down_exps.weight", {num_experts, 64, 32});
    }
  }
  return file;
}

}  // namespace halfmoon::checkpoint
