#include "common/config/render.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"

namespace muster::config {

std::string RenderTrainJob(const v1::TrainJob& job) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseShortRepeatedPrimitives(true);
  printer.SetUseUtf8StringEscaping(true);
  std::string text;
  printer.PrintToString(job, &text);
  return absl::StrCat(
      "# proto-file: muster/config/v1/train_job.proto\n"
      "# proto-message: muster.config.v1.TrainJob\n",
      text);
}

}  // namespace muster::config
