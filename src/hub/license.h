// SPDX-License-Identifier: Apache-2.0
// The licence of a model, from what lies beside it, and whether it asks for a second look.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace halfmoon::hub {

struct License {
  std::string name;  ///< as the model's authors write it, on one line; empty: not known
  std::string link;  ///< where its text is; empty where nobody said
};

/// True for the widely used permissive licences (Apache-2.0, MIT, BSD, ISC, CC-BY, CC0,
/// Unlicense, ...), in the spellings of hubs and SPDX. An unknown name is not one of them.
bool IsPermissive(std::string_view license);

/// The front matter of a model card: license, license_name, license_link.
License LicenseFromModelCard(std::string_view readme);

/// What a folder says: its README.md, else its LICENSE file, named by the text's first words.
License LicenseOfFolder(const std::filesystem::path& folder);

/// The licence that a text is, where its beginning says so; else its first line.
std::string LicenseFromText(std::string_view text);

/// For a licence that is not permissive, or not known, one plain sentence that says so; empty for a
/// permissive one.
std::string LicenseNote(const License& license);

/// "apache-2.0", or name and note: what pull, show and a load print after "licence".
std::string LicenseLine(const License& license);

}  // namespace halfmoon::hub
