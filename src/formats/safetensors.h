// Hugging Face checkpoints on disk: safetensors files, one or many with an index, mapped into memory.
//
// Format: 8 bytes little-endian header length, that many bytes of JSON {name: {dtype, shape, data_offsets}},
// then the data. Source: https://huggingface.co/docs/safetensors. Files are untrusted: every header is
// checked before a view is made (see safetensors.cpp), and a view never reaches outside its file.
//
// Immutable after open; thread-safe. Views stay valid while the Checkpoint, or a copy of keep_alive(), lives.
// A file that is cut short after it was mapped raises SIGBUS, as for every mapped file.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/view.h"

namespace trireme::formats {

class Checkpoint {
 public:
  // `dir` holds model.safetensors, or model.safetensors.index.json and its shards, or any *.safetensors.
  // kNotFound without any; kDataLoss with the file's and tensor's name for a file that is not what it says.
  static Result<Checkpoint> open(const std::string& dir);

  // Null when there is none.
  const ConstView* find(const std::string& name) const;
  const std::map<std::string, ConstView>& tensors() const { return tensors_; }
  i64 total_bytes() const { return total_bytes_; }  // of tensor data
  std::shared_ptr<const void> keep_alive() const { return files_; }

 private:
  std::map<std::string, ConstView> tensors_;
  std::shared_ptr<const void> files_;
  i64 total_bytes_ = 0;
};

}  // namespace trireme::formats
