// What is on the wire and on disk must stay readable for the release before and the one after. The
// list in tests/golden/wire_lock.txt holds every message, field, enum value and RPC of muster.*;
// whatever stands there must stay as it is.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/files.h"
#include "muster/config/v1/train_job.pb.h"
#include "muster/internal/coordinator_store.pb.h"
#include "muster/internal/trainer_service.pb.h"
#include "muster/v1/access_service.pb.h"
#include "muster/v1/checkpoint.pb.h"
#include "muster/v1/job.pb.h"
#include "muster/v1/job_service.pb.h"
#include "muster/v1/node.pb.h"
#include "muster/v1/node_service.pb.h"
#include "muster/v1/progress.pb.h"
#include "muster/v1/worker_service.pb.h"
#include "tests/support/shared_data.h"

namespace muster {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using google::protobuf::ServiceDescriptor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// What must not change of one element, by what names it: "message muster.v1.Hello field 1" is
// "node: string". An element that was taken away in the right manner is "reserved".
using Lock = std::map<std::string, std::string>;

constexpr char kReserved[] = "reserved";
constexpr char kUpdate[] = "MUSTER_UPDATE_WIRE_LOCK";

std::string TypeOf(const FieldDescriptor& field) {
  if (field.is_map()) {
    const Descriptor& entry = *field.message_type();
    return absl::StrCat("map<", TypeOf(*entry.map_key()), ", ", TypeOf(*entry.map_value()), ">");
  }
  std::string type = field.type_name();
  if (field.message_type() != nullptr) type = field.message_type()->full_name();
  if (field.enum_type() != nullptr) type = field.enum_type()->full_name();
  if (field.is_repeated()) return absl::StrCat("repeated ", type);
  if (field.real_containing_oneof() != nullptr) {
    return absl::StrCat(type, " of oneof ", field.real_containing_oneof()->name());
  }
  // Presence is no matter of the wire, but of what code that reads it can tell.
  return field.has_optional_keyword() ? absl::StrCat("optional ", type) : type;
}

void AddEnum(const EnumDescriptor& type, Lock* lock) {
  for (int i = 0; i < type.value_count(); ++i) {
    (*lock)[absl::StrCat("enum ", type.full_name(), " value ", type.value(i)->number())] =
        type.value(i)->name();
  }
  for (int i = 0; i < type.reserved_range_count(); ++i) {
    for (int n = type.reserved_range(i)->start; n <= type.reserved_range(i)->end; ++n) {
      (*lock)[absl::StrCat("enum ", type.full_name(), " value ", n)] = kReserved;
    }
  }
}

void AddMessage(const Descriptor& type, Lock* lock) {
  if (type.options().map_entry()) return;
  // Also one without fields is there.
  (*lock)[absl::StrCat("message ", type.full_name())] = "";
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    (*lock)[absl::StrCat("message ", type.full_name(), " field ", field.number())] =
        absl::StrCat(field.name(), ": ", TypeOf(field));
  }
  for (int i = 0; i < type.reserved_range_count(); ++i) {
    // `end` is not in it.
    for (int n = type.reserved_range(i)->start; n < type.reserved_range(i)->end; ++n) {
      (*lock)[absl::StrCat("message ", type.full_name(), " field ", n)] = kReserved;
    }
  }
  for (int i = 0; i < type.enum_type_count(); ++i) AddEnum(*type.enum_type(i), lock);
  for (int i = 0; i < type.nested_type_count(); ++i) AddMessage(*type.nested_type(i), lock);
}

void AddService(const ServiceDescriptor& service, Lock* lock) {
  for (int i = 0; i < service.method_count(); ++i) {
    const auto& method = *service.method(i);
    (*lock)[absl::StrCat("service ", service.full_name(), " rpc ", method.name())] = absl::StrCat(
        "(", method.client_streaming() ? "stream " : "", method.input_type()->full_name(), ") -> (",
        method.server_streaming() ? "stream " : "", method.output_type()->full_name(), ")");
  }
}

Lock LockOf(const FileDescriptor& file) {
  Lock lock;
  for (int i = 0; i < file.message_type_count(); ++i) AddMessage(*file.message_type(i), &lock);
  for (int i = 0; i < file.enum_type_count(); ++i) AddEnum(*file.enum_type(i), &lock);
  for (int i = 0; i < file.service_count(); ++i) AddService(*file.service(i), &lock);
  return lock;
}

// All of proto/muster.
Lock PresentLock() {
  // One message of each file, which also keeps the file in this program.
  const Descriptor* const known[] = {
      config::v1::TrainJob::descriptor(),    internal::JobRecord::descriptor(),
      internal::TrainerReport::descriptor(), v1::CreateTokenRequest::descriptor(),
      v1::Checkpoint::descriptor(),          v1::Job::descriptor(),
      v1::CreateJobRequest::descriptor(),    v1::Node::descriptor(),
      v1::ListNodesRequest::descriptor(),    v1::TrainProgress::descriptor(),
      v1::WorkerMessage::descriptor(),
  };
  std::set<std::string> files;
  Lock lock;
  for (const Descriptor* message : known) {
    files.insert(message->file()->name());
    lock.merge(LockOf(*message->file()));
  }
  const std::filesystem::path root = testing::SourceFolder() / "proto";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root / "muster")) {
    const std::string name = std::filesystem::relative(entry.path(), root).string();
    if (entry.path().extension() == ".proto" && files.count(name) == 0) {
      ADD_FAILURE() << name << " is not looked at: name a message of it in PresentLock";
    }
  }
  return lock;
}

// Numbers by value, so that field 10 comes after field 9.
std::string SortKey(const std::string& element) {
  const size_t space = element.rfind(' ');
  int number = 0;
  if (!absl::SimpleAtoi(element.substr(space + 1), &number)) return element;
  return absl::StrCat(element.substr(0, space + 1), absl::Dec(number, absl::kZeroPad12));
}

// "message muster.v1.Hello" with its elements, indented, below it.
std::string Write(const Lock& lock) {
  std::vector<std::pair<std::string, std::string>> sorted(lock.begin(), lock.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return SortKey(a.first) < SortKey(b.first); });
  std::string text;
  std::string type;
  for (const auto& [element, value] : sorted) {
    const std::vector<std::string> words = absl::StrSplit(element, ' ');
    const std::string of = absl::StrCat(words[0], " ", words[1]);
    if (of != type) absl::StrAppend(&text, text.empty() ? "" : "\n", of, "\n");
    type = of;
    if (words.size() > 2) absl::StrAppend(&text, "  ", words[2], " ", words[3], " ", value, "\n");
  }
  return text;
}

Lock Read(const std::string& text) {
  Lock lock;
  std::string type;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (!absl::StartsWith(line, "  ")) {
      type = std::string(line);
      if (absl::StartsWith(line, "message ")) lock[type] = "";
      continue;
    }
    const std::vector<std::string> parts = absl::StrSplit(line.substr(2), absl::MaxSplits(' ', 2));
    lock[absl::StrCat(type, " ", parts[0], " ", parts[1])] = parts[2];
  }
  return lock;
}

// What is wrong with the present state; and what is new.
struct Difference {
  std::vector<std::string> broken;
  std::vector<std::string> added;
};

Difference Compare(const Lock& kept, const Lock& present) {
  Difference difference;
  for (const auto& [element, value] : kept) {
    const auto now = present.find(element);
    if (now != present.end() && now->second == value) continue;
    if (now != present.end() && now->second == kReserved) {
      difference.added.push_back(absl::StrCat(element, " is reserved; it was ", value));
    } else if (now == present.end()) {
      const bool numbered =
          absl::StrContains(element, " field ") || absl::StrContains(element, " value ");
      difference.broken.push_back(absl::StrCat(
          element, " (", value, ") is gone: other releases and stored records still have it. ",
          numbered ? "Put it back, or stop using it and write `reserved` with its number and name"
                   : "Put it back; it may go when no release that is in use needs it, and then "
                     "its lines are taken out of the list by hand"));
    } else {
      difference.broken.push_back(
          absl::StrCat(element, " was ", value, " and is ", now->second,
                       ": other releases would misread it. Put the old one back, and give what is "
                       "new a number that was never used"));
    }
  }
  for (const auto& [element, value] : present) {
    if (kept.count(element) == 0) difference.added.push_back(absl::StrCat(element, " ", value));
  }
  return difference;
}

std::filesystem::path KeptFile() {
  return testing::SourceFolder() / "tests" / "golden" / "wire_lock.txt";
}

TEST(WireLockTest, NothingOnTheWireIsTakenAwayOrChanged) {
  const Lock present = PresentLock();
  ASSERT_GT(present.size(), 500u);
  const auto text = base::ReadFile(KeptFile());
  const Lock kept = text.ok() ? Read(*text) : Lock();
  const Difference difference = Compare(kept, present);
  EXPECT_THAT(difference.broken, IsEmpty());
  if (HasFailure()) return;
  if (std::getenv(kUpdate) != nullptr) {
    std::ofstream(KeptFile()) << Write(present);
    return;
  }
  EXPECT_THAT(difference.added, IsEmpty())
      << "not in " << KeptFile() << ". If it is meant so, add it with\n  " << kUpdate
      << "=1 ctest --preset dev -R wire_lock_test";
  if (HasFailure()) return;
  EXPECT_TRUE(*text == Write(present))
      << "the file was changed by hand: write it anew in the same manner";
}

TEST(WireLockTest, TextKeepsAll) {
  const Lock present = PresentLock();
  EXPECT_EQ(Read(Write(present)), present);
}

// A schema with one message, changed by the test.
class ChangedSchemaTest : public ::testing::Test {
 protected:
  ChangedSchemaTest() {
    file_.set_name("x.proto");
    file_.set_package("x");
    file_.set_syntax("proto3");
    google::protobuf::DescriptorProto& message = *file_.add_message_type();
    message.set_name("M");
    Add(&message, "a", 1, FieldDescriptor::TYPE_STRING);
    Add(&message, "b", 2, FieldDescriptor::TYPE_INT32);
    google::protobuf::EnumDescriptorProto& state = *file_.add_enum_type();
    state.set_name("E");
    state.add_value()->set_name("E_UNSPECIFIED");
    state.mutable_value(0)->set_number(0);
    google::protobuf::MethodDescriptorProto& method = *file_.add_service()->add_method();
    file_.mutable_service(0)->set_name("S");
    method.set_name("Get");
    method.set_input_type(".x.M");
    method.set_output_type(".x.M");
    kept_ = Now();
  }

  static void Add(google::protobuf::DescriptorProto* message, const std::string& name, int number,
                  FieldDescriptor::Type type) {
    google::protobuf::FieldDescriptorProto& field = *message->add_field();
    field.set_name(name);
    field.set_number(number);
    field.set_type(static_cast<google::protobuf::FieldDescriptorProto::Type>(type));
    field.set_label(google::protobuf::FieldDescriptorProto::LABEL_OPTIONAL);
  }
  google::protobuf::DescriptorProto& message() { return *file_.mutable_message_type(0); }
  Lock Now() const {
    google::protobuf::DescriptorPool pool;
    const FileDescriptor* built = pool.BuildFile(file_);
    return built == nullptr ? Lock() : LockOf(*built);
  }
  Difference Changed() const { return Compare(kept_, Now()); }

  google::protobuf::FileDescriptorProto file_;
  Lock kept_;
};

TEST_F(ChangedSchemaTest, SameIsFine) {
  EXPECT_THAT(Changed().broken, IsEmpty());
  EXPECT_THAT(Changed().added, IsEmpty());
}

TEST_F(ChangedSchemaTest, RemovedField) {
  message().mutable_field()->RemoveLast();
  EXPECT_THAT(Changed().broken,
              ElementsAre(::testing::AllOf(HasSubstr("message x.M field 2 (b: int32) is gone"),
                                           HasSubstr("reserved"))));
}

TEST_F(ChangedSchemaTest, ReservedFieldIsOnlyToBeNoted) {
  message().mutable_field()->RemoveLast();
  message().add_reserved_range()->set_start(2);
  message().mutable_reserved_range(0)->set_end(3);
  message().add_reserved_name("b");
  EXPECT_THAT(Changed().broken, IsEmpty());
  EXPECT_THAT(Changed().added, ElementsAre(HasSubstr("message x.M field 2 is reserved")));
}

TEST_F(ChangedSchemaTest, ReservedNumberIsUsedAgain) {
  kept_["message x.M field 2"] = kReserved;
  EXPECT_THAT(Changed().broken, ElementsAre(HasSubstr("was reserved and is b: int32")));
}

TEST_F(ChangedSchemaTest, RenumberedField) {
  message().mutable_field(1)->set_number(3);
  EXPECT_THAT(Changed().broken, ElementsAre(HasSubstr("message x.M field 2 (b: int32) is gone")));
  EXPECT_THAT(Changed().added, ElementsAre("message x.M field 3 b: int32"));
}

TEST_F(ChangedSchemaTest, RetypedRenamedAndRepeatedField) {
  auto* field = message().mutable_field(1);
  field->set_type(google::protobuf::FieldDescriptorProto::TYPE_INT64);
  EXPECT_THAT(Changed().broken, ElementsAre(HasSubstr("was b: int32 and is b: int64")));
  field->set_type(google::protobuf::FieldDescriptorProto::TYPE_INT32);
  field->set_name("c");
  EXPECT_THAT(Changed().broken, ElementsAre(HasSubstr("was b: int32 and is c: int32")));
  field->set_name("b");
  field->set_label(google::protobuf::FieldDescriptorProto::LABEL_REPEATED);
  EXPECT_THAT(Changed().broken, ElementsAre(HasSubstr("is b: repeated int32")));
}

TEST_F(ChangedSchemaTest, EnumValueAndMethod) {
  file_.mutable_enum_type(0)->mutable_value(0)->set_name("E_NONE");
  file_.mutable_service(0)->mutable_method(0)->set_server_streaming(true);
  EXPECT_THAT(Changed().broken,
              ElementsAre(HasSubstr("enum x.E value 0 was E_UNSPECIFIED and is E_NONE"),
                          HasSubstr("service x.S rpc Get was (x.M) -> (x.M)")));
  file_.clear_service();
  EXPECT_THAT(Changed().broken, ::testing::Contains(HasSubstr("rpc Get")));
}

TEST_F(ChangedSchemaTest, AdditionIsOnlyToBeNoted) {
  Add(&message(), "c", 3, FieldDescriptor::TYPE_BYTES);
  EXPECT_THAT(Changed().broken, IsEmpty());
  EXPECT_THAT(Changed().added, ElementsAre("message x.M field 3 c: bytes"));
}

}  // namespace
}  // namespace muster
