// SPDX-License-Identifier: Apache-2.0
#include "hub/license.h"

#include <algorithm>
#include <cctype>
#include <iterator>

#include "base/file.h"
#include "hub/hub.h"

namespace halfmoon::hub {
namespace {

constexpr size_t kMaxTextBytes = 8 << 20;
constexpr size_t kMaxNameBytes = 120;

/// Lower case, blanks and underscores as '-'.
std::string Normalised(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isspace(byte) != 0 || c == '_') {
      if (!out.empty() && out.back() != '-') out += '-';
    } else {
      out += static_cast<char>(std::tolower(byte));
    }
  }
  while (out.ends_with('-')) out.pop_back();
  return out;
}

std::string Unquoted(std::string_view value) {
  const size_t begin = value.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return "";
  value = value.substr(begin, value.find_last_not_of(" \t\r") - begin + 1);
  if (value.size() >= 2 && (value.front() == '"' || value.front() == '\'') &&
      value.back() == value.front()) {
    return std::string(value.substr(1, value.size() - 2));
  }
  if (const size_t comment = value.find(" #"); comment != std::string_view::npos) {
    value = value.substr(0, comment);
  }
  return std::string(value.substr(0, value.find_last_not_of(" \t") + 1));
}

/// Calls `line` for each line of `text`; false ends it.
template <typename F>
void ForLines(std::string_view text, const F& line) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view one = text.substr(begin, end - begin);
    if (one.ends_with('\r')) one.remove_suffix(1);
    if (!line(one)) return;
    begin = end + 1;
  }
}

// In lower case, with dashes for blanks: SPDX names and the spellings of hubs.
constexpr std::string_view kPermissive[] = {
    "apache",
    "apache-2",
    "apache-2.0",
    "apache-license-2.0",
    "apache-license-version-2.0",
    "apache-license,-version-2.0",
    "mit",
    "mit-license",
    "mit-0",
    "isc",
    "0bsd",
    "zlib",
    "unlicense",
    "wtfpl",
    "cc0-1.0",
    "pddl",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "bsl-1.0",
    "ncsa",
    "postgresql",
    "ecl-2.0",
    "odc-by",
    "afl-3.0",
    "artistic-2.0",
    "ms-pl",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
};

bool IsPermissiveName(std::string_view name) {
  return std::find(std::begin(kPermissive), std::end(kPermissive), name) != std::end(kPermissive) ||
         name == "bsd" || name.starts_with("bsd-");
}

/// Calls `part` for each piece of `text` between separators.
template <typename F>
void ForParts(std::string_view text, std::string_view separator, const F& part) {
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    part(text.substr(begin, end - begin));
    begin = end + separator.size();
  }
}

/// A list holds for different parts of a model, so that each name has to be permissive.
bool AreAllPermissive(std::string_view names) {
  bool all = true;
  ForParts(names, ",-", [&](std::string_view listed) {
    ForParts(listed, "-and-", [&](std::string_view name) { all &= IsPermissiveName(name); });
  });
  return all;
}

}  // namespace

bool IsPermissive(std::string_view license) {
  const std::string name = Normalised(license);
  if (IsPermissiveName(name)) return true;
  bool any = false;  // "MIT OR GPL-3.0": the user chooses.
  ForParts(name, "-or-", [&](std::string_view choice) { any |= AreAllPermissive(choice); });
  return any;
}

License LicenseFromModelCard(std::string_view readme) {
  License license;
  std::string own_name;
  bool begun = false;
  bool in_list = false;
  ForLines(readme, [&](std::string_view line) {
    if (!begun) {
      begun = line == "---";
      return begun;
    }
    if (line == "---") return false;
    if (in_list) {
      const size_t dash = line.find_first_not_of(" \t");
      if (dash != std::string_view::npos && line[dash] == '-') {
        if (!license.name.empty()) license.name += ", ";
        license.name += Unquoted(line.substr(dash + 1));
        return true;
      }
      in_list = false;
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return true;
    const std::string_view key = line.substr(0, colon);
    std::string value = Unquoted(line.substr(colon + 1));
    if (value.starts_with('[') && value.ends_with(']')) value = value.substr(1, value.size() - 2);
    if (key == "license") {
      license.name = value;
      in_list = value.empty();
    } else if (key == "license_name") {
      own_name = value;
    } else if (key == "license_link") {
      license.link = value;
    }
    return true;
  });
  if ((license.name == "other" || license.name.empty()) && !own_name.empty()) {
    license.name = own_name;
  }
  license.name = OneLine(license.name, kMaxNameBytes);
  license.link = OneLine(license.link);
  return license;
}

std::string LicenseFromText(std::string_view text) {
  std::string first;
  ForLines(text, [&](std::string_view line) {
    const size_t begin = line.find_first_not_of(" \t#*-=");
    if (begin == std::string_view::npos) return true;
    first = OneLine(line.substr(begin), kMaxNameBytes);
    return false;
  });
  while (first.ends_with(' ')) first.pop_back();
  const std::string name = Normalised(first);
  if (name.starts_with("apache-license") && text.substr(0, 1000).find("2.0") != text.npos) {
    return "apache-2.0";
  }
  if (name == "mit-license" || name.starts_with("the-mit-license")) return "mit";
  return first;
}

License LicenseOfFolder(const std::filesystem::path& folder) {
  const auto read = [&](const char* name) {
    Result<std::string> text = ReadTextFile(folder / name, kMaxTextBytes);
    return text.ok() ? std::move(text).value() : std::string();
  };
  License license = LicenseFromModelCard(read("README.md"));
  for (const char* name : {"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENSE-MODEL", "LICENCE"}) {
    if (!license.name.empty() && license.name != "other") break;
    if (const std::string text = read(name); !text.empty()) license.name = LicenseFromText(text);
  }
  return license;
}

std::string LicenseNote(const License& license) {
  if (license.name.empty()) return "find out what the authors allow before you use this model";
  if (IsPermissive(license.name)) return "";
  return "not a standard permissive licence, read it before you use this model" +
         (license.link.empty() ? "" : " (" + OneLine(license.link) + ")");
}

std::string LicenseLine(const License& license) {
  const std::string note = LicenseNote(license);
  const std::string name =
      license.name.empty() ? "not stated" : OneLine(license.name, kMaxNameBytes);
  return note.empty() ? name : name + ": " + note;
}

}  // namespace halfmoon::hub
