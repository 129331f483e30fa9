// SPDX-License-Identifier: Apache-2.0
#include "hub/hub_client.h"

#include <charconv>
#include <utility>

#include "hub/cache_paths.h"
#include "hub/download.h"
#include "hub/listing.h"
#include "net/http.h"

namespace halfmoon::hub {
namespace {

constexpr size_t kMaxListBytes = 64 << 20;

std::string EncodedPath(std::string_view path) {
  std::string out;
  for (const char c : path) out += c == '/' ? std::string(1, c) : net::PercentEncode({&c, 1});
  return out;
}

}  // namespace

HubClient::HubClient(const Environment* environment, HubKind hub, FetchOptions options)
    : environment_(environment), hub_(hub), fetcher_(environment, std::move(options)) {
  HM_CHECK(hub != HubKind::kOllama, "nothing is fetched from Ollama");
}

std::string HubClient::RevisionOf(const ModelName& name) const {
  if (!name.revision.empty()) return name.revision;
  return std::string(hub_ == HubKind::kHuggingFace ? kHuggingFaceRevision : kModelScopeRevision);
}

FetchTarget HubClient::Target(const std::string& path) const {
  if (hub_ == HubKind::kHuggingFace) {
    return {.url = environment_->hf_endpoint + path, .token = environment_->hf_token};
  }
  return {.url = environment_->modelscope_endpoint + path,
          .token = environment_->modelscope_token,
          .token_cookie = true};
}

FetchTarget HubClient::TargetOf(const Repository& repository, std::string_view path) const {
  if (hub_ == HubKind::kHuggingFace) {
    return Target("/" + repository.id + "/resolve/" + repository.commit + "/" + EncodedPath(path));
  }
  return Target("/api/v1/models/" + repository.id + "/repo?Revision=" +
                net::PercentEncode(repository.commit) + "&FilePath=" + net::PercentEncode(path));
}

Result<std::string> HubClient::GetText(const std::string& what, const FetchTarget& target) {
  Result<Fetcher::Text> text = fetcher_.GetText(target, kMaxListBytes);
  if (!text.ok()) {
    if (text.error().code() != ErrorCode::kUnavailable) return text.error();
    return Error(ErrorCode::kUnavailable,
                 text.error().message() +
                     (hub_ == HubKind::kHuggingFace
                          ? "; HF_ENDPOINT names a mirror, --hub modelscope asks another hub"
                          : "; MODELSCOPE_ENDPOINT names another address, --hub huggingface asks "
                            "another hub"));
  }
  if (text->answer.status != 200) return StatusError(what, text->answer);
  return std::move(text->body);
}

Result<Repository> HubClient::List(const ModelName& name) {
  const std::string revision = RevisionOf(name);
  const std::string what = name.id + (name.revision.empty() ? "" : " at revision " + name.revision);
  Result<Repository> repository = Error(ErrorCode::kInternal, "");
  if (hub_ == HubKind::kHuggingFace) {
    HM_ASSIGN(const std::string body,
              GetText(what, Target("/api/models/" + name.id + "/revision/" +
                                   net::PercentEncode(revision) + "?blobs=true")));
    repository = ParseHuggingFaceListing(body);
  } else {
    HM_ASSIGN(const std::string body,
              GetText(what, Target("/api/v1/models/" + name.id + "/repo/files?Recursive=True" +
                                   "&Revision=" + net::PercentEncode(revision))));
    repository = ParseModelScopeListing(body, name.id, revision);
  }
  if (!repository.ok()) return repository.error().WithContext(name.id);
  // A repository that was renamed answers with its new name; the cache knows the one asked for.
  repository->id = name.id;
  return repository;
}

Status HubClient::Complete(const Repository& repository, RemoteFile* file) {
  const std::string what = repository.id + ": " + file->path;
  if (!file->size_bytes || !file->has_digest()) {
    HM_ASSIGN(const FetchAnswer answer, fetcher_.Head(TargetOf(repository, file->path)));
    if (answer.status / 100 != 2 && answer.status / 100 != 3) return StatusError(what, answer);
    const net::Headers& headers = answer.first_headers;
    const bool linked = headers.Find("X-Linked-Etag").has_value();
    const std::string etag = EntityTag(headers, linked ? "X-Linked-Etag" : "ETag");
    if (!file->has_digest() && IsHex(etag, 64)) file->sha256 = etag;
    if (!file->has_digest() && IsHex(etag, 40) && hub_ == HubKind::kHuggingFace) {
      file->git_sha1 = etag;
    }
    const auto size = headers.Find(linked ? "X-Linked-Size" : "Content-Length");
    uint64_t bytes = 0;
    if (!file->size_bytes && size &&
        std::from_chars(size->data(), size->data() + size->size(), bytes).ec == std::errc()) {
      file->size_bytes = bytes;
    }
  }
  if (file->size_bytes && file->has_digest()) return {};
  return Error(ErrorCode::kCorrupt, what + ": the hub gives no " +
                                        (file->size_bytes ? "digest" : "size") +
                                        ", so that a copy of it could not be checked");
}

Result<std::string> HubClient::ReadSmall(const Repository& repository, const RemoteFile& file) {
  RemoteFile checked = file;
  HM_TRY(Complete(repository, &checked));
  const std::string what = repository.id + ": " + file.path;
  HM_ASSIGN(std::string text, GetText(what, TargetOf(repository, file.path)));
  HM_TRY(VerifyContent(text, checked).WithContext(what));
  return text;
}

Error HubClient::StatusError(const std::string& what, const FetchAnswer& answer) const {
  const bool hugging_face = hub_ == HubKind::kHuggingFace;
  const std::string variable = hugging_face ? "HF_TOKEN" : "MODELSCOPE_API_TOKEN";
  const bool has_token =
      !(hugging_face ? environment_->hf_token : environment_->modelscope_token).empty();
  const std::string_view reason = answer.first_headers.Find("X-Error-Code").value_or("");
  const std::string told = OneLine(answer.first_headers.Find("X-Error-Message").value_or(""));
  const std::string said = told.empty() ? "" : " (the hub says: " + told + ")";
  const int status = answer.status;
  if (status == 404 || reason == "RepoNotFound") {
    return Error(ErrorCode::kNotFound,
                 what + ": the hub has no such model, revision or file, or it is private: then " +
                     variable + " needs a token that may read it" + said);
  }
  if (status == 401 || status == 403) {
    const std::string endpoint =
        hugging_face ? environment_->hf_endpoint : environment_->modelscope_endpoint + "/models";
    const std::string id = what.substr(0, what.find_first_of(": "));
    return Error(
        ErrorCode::kUnavailable,
        what + ": no access (status " + std::to_string(status) + "). If its authors ask for it, " +
            "accept the terms at " + endpoint + "/" + id + " with your account, then " +
            (has_token ? "check that the token of " + variable + " belongs to it and may read it"
                       : "set " + variable + " to a token of that account") +
            said);
  }
  return Error(ErrorCode::kUnavailable,
               what + ": the hub answers with status " + std::to_string(status) + said);
}

}  // namespace halfmoon::hub
