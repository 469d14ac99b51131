#include "worker/daemon/scheduled_events.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/time_util.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace muster::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// As Azure's documentation shows it.
constexpr char kDocument[] = R"json({
  "DocumentIncarnation": 1,
  "Events": [{
    "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
    "EventStatus": "Scheduled",
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": ["WestNO_0", "WestNO_1"],
    "NotBefore": "Mon, 11 Apr 2022 22:26:58 GMT",
    "Description": "Spot eviction",
    "EventSource": "Platform",
    "DurationInSeconds": -1
  }]
})json";

std::vector<v1::MaintenanceEvent> Parse(const std::string& document,
                                        const std::string& vm = "WestNO_0") {
  const auto events = ParseScheduledEvents(document, vm);
  EXPECT_TRUE(events.ok()) << events.status();
  return events.value_or(std::vector<v1::MaintenanceEvent>());
}

std::string With(const std::string& from, const std::string& to) {
  const std::string changed = absl::StrReplaceAll(kDocument, {{from, to}});
  EXPECT_NE(changed, kDocument) << from;
  return changed;
}

TEST(ScheduledEventsTest, ReadsTheDocumentedForm) {
  const std::vector<v1::MaintenanceEvent> events = Parse(kDocument);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].id(), "C7061BAC-AFDC-4513-B24B-AA5F13A16123");
  EXPECT_EQ(events[0].type(), "Preempt");
  EXPECT_EQ(events[0].status(), "Scheduled");
  EXPECT_EQ(google::protobuf::util::TimeUtil::ToString(events[0].not_before()),
            "2022-04-11T22:26:58Z");
  EXPECT_EQ(events[0].duration_seconds(), -1);
  EXPECT_EQ(events[0].description(), "Spot eviction");
}

TEST(ScheduledEventsTest, OnlyThoseOfThisMachine) {
  EXPECT_THAT(Parse(kDocument, "westno_1"), SizeIs(1));
  EXPECT_THAT(Parse(kDocument, "WestNO_2"), IsEmpty());
  EXPECT_THAT(Parse(kDocument, "WestNO"), IsEmpty());
  EXPECT_THAT(Parse(With("[\"WestNO_0\", \"WestNO_1\"]", "[null, 3, {}]")), IsEmpty());
  EXPECT_THAT(Parse(With("[\"WestNO_0\", \"WestNO_1\"]", "\"WestNO_0\"")), IsEmpty());
  EXPECT_THAT(Parse(R"({"DocumentIncarnation": 2, "Events": []})"), IsEmpty());
}

TEST(ScheduledEventsTest, ADateThatCannotBeReadIsNow) {
  for (const char* date :
       {"", "soon", "infinite-future", "infinite-future GMT", "Mon, 11 Apr 99999 22:26:58 GMT",
        "Mon, 11 Apr -100 22:26:58 GMT", "Mon, 41 Apr 2022 22:26:58 GMT", "2022-04-11T22:26:58Z"}) {
    const auto events = Parse(With("Mon, 11 Apr 2022 22:26:58 GMT", date));
    ASSERT_THAT(events, SizeIs(1)) << date;
    EXPECT_FALSE(events[0].has_not_before()) << date;
  }
  EXPECT_FALSE(Parse(With("\"Mon, 11 Apr 2022 22:26:58 GMT\"", "17"))[0].has_not_before());
}

TEST(ScheduledEventsTest, UnknownTypesStayAndNonsenseGoes) {
  EXPECT_EQ(Parse(With("\"Preempt\"", "\"Hibernate\""))[0].type(), "Hibernate");
  EXPECT_THAT(Parse(With("\"Preempt\"", "7")), IsEmpty());
  EXPECT_THAT(Parse(With("Preempt", std::string(100, 'P'))), IsEmpty());
  EXPECT_THAT(Parse(With("C7061BAC-AFDC-4513-B24B-AA5F13A16123", "")), IsEmpty());
  EXPECT_THAT(Parse(With("C7061BAC-AFDC-4513-B24B-AA5F13A16123", std::string(500, 'a'))),
              IsEmpty());
  EXPECT_EQ(Parse(With("\"Scheduled\"", "[]"))[0].status(), "Scheduled");
}

TEST(ScheduledEventsTest, NumbersAndTextsAreBounded) {
  EXPECT_EQ(Parse(With("-1", "9"))[0].duration_seconds(), 9);
  EXPECT_EQ(Parse(With("-1", "-99999999999"))[0].duration_seconds(), -1);
  EXPECT_EQ(Parse(With("-1", "99999999999"))[0].duration_seconds(), 365 * 24 * 3600);
  EXPECT_EQ(Parse(With("-1", "\"5\""))[0].duration_seconds(), -1);
  EXPECT_EQ(Parse(With("-1", "1e300"))[0].duration_seconds(), -1);
  EXPECT_EQ(Parse(With("Spot eviction", R"(\u001b[31mred\nline \u00e9)"))[0].description(),
            " [31mred line   ");
  EXPECT_THAT(Parse(With("Spot eviction", std::string(5000, 'd')))[0].description(), SizeIs(300));
}

TEST(ScheduledEventsTest, RefusesWhatIsNoSuchDocument) {
  for (const char* text : {"", "<html>", "null", "[]", "{}", R"({"Events": {}})",
                           R"({"Events": null})", R"({"Events": [)", "{\"Events\": [\"\xff\"]}"}) {
    const absl::Status status = ParseScheduledEvents(text, "WestNO_0").status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
  }
  EXPECT_THAT(
      ParseScheduledEvents(std::string(kMostScheduledEventsBytes + 1, ' '), "a").status().message(),
      HasSubstr("longer than"));
  EXPECT_FALSE(ParseScheduledEvents(std::string(200'000, '['), "a").ok());
  std::string many = R"({"Events": [)";
  for (int i = 0; i < 500; ++i) {
    absl::StrAppend(&many, i == 0 ? "" : ",", R"({"EventId": "e)", i,
                    R"(", "EventType": "Freeze", "Resources": ["a"]})");
  }
  EXPECT_THAT(Parse(many + "]}", "a"), SizeIs(100));
}

}  // namespace
}  // namespace muster::worker
