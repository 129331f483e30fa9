// SPDX-License-Identifier: Apache-2.0
// Runs tests/scenario/*.txt: arrivals and capacities in, the whole schedule out.
// tests/scenario/README.md describes the language.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "sched/schedule_simulator.h"

namespace halfmoon::sched {
namespace {

struct Command {
  std::string verb;
  std::string name;
  std::map<std::string, std::string> fields;
};

struct Scenario {
  TableOptions options;
  std::optional<SimulatedCosts> costs;
  std::multimap<int, Command> commands;
  std::vector<std::string> expected;  // by step
};

std::map<std::string, std::string> ReadFields(std::istream& words) {
  std::map<std::string, std::string> fields;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    EXPECT_NE(equals, std::string::npos) << "not a field: " << word;
    fields[word.substr(0, equals)] = word.substr(equals + 1);
  }
  return fields;
}

int32_t Number(const std::map<std::string, std::string>& fields, const std::string& name,
               int32_t otherwise) {
  const auto it = fields.find(name);
  return it == fields.end() ? otherwise : std::stoi(it->second);
}

Scenario ReadScenario(const std::filesystem::path& path) {
  Scenario scenario;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::string kind;
    if (!(words >> kind)) continue;
    if (kind == "limits") {
      auto fields = ReadFields(words);
      scenario.options.limits = {.step_tokens = std::stoi(fields.at("step_tokens")),
                                 .max_running = std::stoi(fields.at("max_running")),
                                 .block_size = std::stoi(fields.at("block_size")),
                                 .draft_tokens = Number(fields, "drafts", 0)};
      scenario.options.num_pages = std::stoi(fields.at("pages"));
      scenario.options.prefix_cache = fields["prefix_cache"] != "off";
    } else if (kind == "costs") {
      const auto fields = ReadFields(words);
      scenario.costs = {.share = {.decode_share = Number(fields, "share_percent", 0) / 100.0,
                                  .max_stall_us = static_cast<double>(Number(fields, "stall", 1))},
                        .decode_us = static_cast<double>(Number(fields, "decode", 0)),
                        .decode_row_us = static_cast<double>(Number(fields, "decode_row", 0)),
                        .prompt = {.fixed_us = static_cast<double>(Number(fields, "prompt", 0)),
                                   .token_us = static_cast<double>(Number(fields, "token", 0))}};
    } else if (kind == "at") {
      int step = 0;
      Command command;
      words >> step >> command.verb >> command.name;
      command.fields = ReadFields(words);
      scenario.commands.emplace(step, command);
    } else if (kind == "step") {
      size_t first = 0;
      words >> first;
      size_t last = first;
      if (words.peek() == '-') {
        words.ignore();
        words >> last;
      }
      std::string schedule;
      for (std::string word; words >> word;) schedule += (schedule.empty() ? "" : " ") + word;
      EXPECT_EQ(first, scenario.expected.size()) << path << ": steps out of order";
      scenario.expected.resize(last + 1, schedule);
    } else {
      ADD_FAILURE() << path << ": " << line;
    }
  }
  return scenario;
}

class Runner {
 public:
  explicit Runner(const Scenario& scenario) : simulator_(scenario.options) {
    if (scenario.costs) simulator_.SetCosts(*scenario.costs);
  }

  void Do(const Command& command) {
    if (command.verb == "request") {
      const SeqId id{++last_id_};
      names_[id] = command.name;
      ids_[command.name] = id;
      std::vector<int32_t>& prompt = prompts_[command.name];
      const int32_t length = std::stoi(command.fields.at("prompt"));
      for (int32_t i = 0; i < length; ++i) {
        prompt.push_back(static_cast<int32_t>(last_id_) * 1000 + i);
      }
      if (const auto like = command.fields.find("like"); like != command.fields.end()) {
        const size_t colon = like->second.find(':');
        const std::vector<int32_t>& other = prompts_.at(like->second.substr(0, colon));
        std::copy_n(other.begin(), std::stoi(like->second.substr(colon + 1)), prompt.begin());
      }
      simulator_.SetGuesses(id, {.wanted = Number(command.fields, "guess", 0),
                                 .right = Number(command.fields, "right", 0)});
      const int32_t stored = Number(command.fields, "stored", 0);
      simulator_.SetStored(id, {.blocks = stored,
                                .arriving = Number(command.fields, "arriving", stored),
                                .steps = Number(command.fields, "load_steps", 1)});
      simulator_.Add(id, prompt, std::stoi(command.fields.at("output")));
    } else if (command.verb == "cancel") {
      simulator_.Cancel(ids_.at(command.name));
    } else if (command.verb == "pause" || command.verb == "resume") {
      simulator_.SetPaused(ids_.at(command.name), command.verb == "pause");
    } else {
      ADD_FAILURE() << "unknown command " << command.verb;
    }
  }

  std::string Step() {
    const SimulatedStep step = simulator_.Step();
    EXPECT_EQ(simulator_.violation(), "");
    std::string text;
    const auto section = [&text](const std::string& title, const std::string& what) {
      if (!what.empty()) text += (text.empty() ? "" : " | ") + title + what;
    };
    section("preempt", Names(step.plan.preempt));
    section("admit", Names(step.plan.admit));
    std::string loads;
    for (const Load& load : step.plan.loads) {
      loads += " " + names_.at(load.id) + ":" + std::to_string(load.pages);
    }
    section("load", loads);
    std::string shares;
    for (const Share& share : step.plan.shares) {
      shares += " " + names_.at(share.id) + ":" + std::to_string(share.tokens);
      if (share.draft_tokens > 0) shares += "+" + std::to_string(share.draft_tokens);
    }
    section("run", shares);
    section("finish", Names(step.finished));
    return text.empty() ? "idle" : text;
  }

  bool empty() const { return simulator_.remaining().empty(); }

 private:
  std::string Names(const std::vector<SeqId>& ids) const {
    std::string text;
    for (SeqId id : ids) text += " " + names_.at(id);
    return text;
  }

  ScheduleSimulator simulator_;
  uint64_t last_id_ = 0;
  std::map<SeqId, std::string> names_;
  std::map<std::string, SeqId> ids_;
  std::map<std::string, std::vector<int32_t>> prompts_;
};

TEST(Scenario, EachFile_GivesTheScheduleItStates) {
  const std::filesystem::path folder =
      std::filesystem::path(HALFMOON_SOURCE_DIR) / "tests/scenario";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".txt") continue;
    SCOPED_TRACE(entry.path().filename().string());
    ++files;
    const Scenario scenario = ReadScenario(entry.path());
    Runner runner(scenario);
    std::string actual;
    bool equal = true;
    for (size_t step = 0; step < scenario.expected.size(); ++step) {
      const auto [first, last] = scenario.commands.equal_range(static_cast<int>(step));
      for (auto it = first; it != last; ++it) runner.Do(it->second);
      const std::string schedule = runner.Step();
      actual += "step " + std::to_string(step) + " " + schedule + "\n";
      equal = equal && schedule == scenario.expected[step];
    }
    EXPECT_TRUE(equal) << "the schedule is now\n" << actual;
    EXPECT_TRUE(runner.empty()) << "not all requests have ended";
    EXPECT_TRUE(scenario.commands.empty() ||
                static_cast<size_t>(scenario.commands.rbegin()->first) < scenario.expected.size())
        << "not all commands were carried out";
  }
  EXPECT_GE(files, 7);
}

}  // namespace
}  // namespace halfmoon::sched
