// SPDX-License-Identifier: Apache-2.0
// A node or a conductor as far as membership goes, for tests/e2e/test_etcd.py:
//
//   cluster_member URLS TTL_S CA_FILE follow          prints every list of nodes as a JSON array
//   cluster_member URLS TTL_S CA_FILE NAME ADDRESS    announces that node
//
// CA_FILE may be empty. Each line on standard input is answered with the store's state; the end of
// the input ends the program, and what it announced.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/log.h"
#include "cluster/meta_store.h"

namespace {

using halfmoon::Status;

std::mutex output_mutex;

void Print(const halfmoon::json::value& line) {
  const std::lock_guard lock(output_mutex);
  std::cout << halfmoon::json::Serialize(line) << std::endl;
}

int Fail(const std::string& message) {
  std::cerr << message << "\n";
  return EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return Fail("usage: cluster_member URLS TTL_S CA_FILE follow | NAME ADDRESS");
  if (const Status logging = halfmoon::InitLogging("info"); !logging.ok()) {
    return Fail(logging.error().message());
  }
  const halfmoon::cluster::MetaStoreOptions options{
      .cluster = "e2e", .ttl = std::chrono::seconds(std::stoi(argv[2])), .tls_ca_file = argv[3]};
  auto store = halfmoon::cluster::OpenMetaStore(argv[1], options);
  if (!store.ok()) return Fail(store.error().message());
  const Status begun = argc == 5 ? (*store)->Follow([](std::vector<std::string> addresses) {
    Print(halfmoon::json::array(addresses.begin(), addresses.end()));
  })
                                 : (*store)->Announce({.name = argv[4], .address = argv[5]});
  if (!begun.ok()) return Fail(begun.error().message());
  for (std::string line; std::getline(std::cin, line);) {
    const std::string state = (*store)->state();
    Print(halfmoon::json::value(std::string_view(state)));
  }
  return EXIT_SUCCESS;
}
