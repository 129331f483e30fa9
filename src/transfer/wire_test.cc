// SPDX-License-Identifier: Apache-2.0
#include "transfer/wire.h"

#include <gtest/gtest.h>

namespace halfmoon::transfer {
namespace {

Request ExampleRequest() {
  return {.type = MessageType::kRead,
          .number = 7,
          .segment = 9,
          .secret = {1, 2, 3},
          .pieces = {{.offset = 5, .length = 6}, {.offset = UINT64_MAX, .length = 1}}};
}

TEST(Hello, ItsBytes_AreReadBack) {
  const Hello hello = {.path = PathKind::kTcp, .nonce = {1, 2, 3}};
  const std::string bytes = hello.Format();
  ASSERT_EQ(bytes.size(), kHelloBytes);
  const Result<Hello> back = Hello::Parse(bytes);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->path, PathKind::kTcp);
  EXPECT_EQ(back->nonce, hello.nonce);
}

TEST(Hello, OtherMagicVersionOrPath_AreErrors) {
  std::string bytes = Hello{}.Format();
  bytes[0] = 'X';
  EXPECT_EQ(Hello::Parse(bytes).error().code(), ErrorCode::kCorrupt);
  bytes = Hello{}.Format();
  bytes[8] = 2;
  EXPECT_EQ(Hello::Parse(bytes).error().code(), ErrorCode::kUnsupported);
  bytes = Hello{}.Format();
  bytes[10] = 3;
  EXPECT_EQ(Hello::Parse(bytes).error().code(), ErrorCode::kCorrupt);
}

TEST(Proof, AnyOtherInput_IsAnotherProof) {
  const Hello reader = {.nonce = {1}};
  const Hello owner = {.nonce = {2}};
  const std::string proof = Proof(Role::kReader, "token", reader, owner).value();
  EXPECT_EQ(proof.size(), kProofBytes);
  EXPECT_EQ(Proof(Role::kReader, "token", reader, owner).value(), proof);
  EXPECT_NE(Proof(Role::kOwner, "token", reader, owner).value(), proof);
  EXPECT_NE(Proof(Role::kReader, "Token", reader, owner).value(), proof);
  EXPECT_NE(Proof(Role::kReader, "token", owner, reader).value(), proof);
}

TEST(Verdict, ItsBytes_AreReadBack) {
  const std::string bytes = Verdict{.accepted = true, .proof = std::string(32, 'p')}.Format();
  ASSERT_EQ(bytes.size(), kVerdictBytes);
  EXPECT_TRUE(Verdict::Parse(bytes).accepted);
  EXPECT_EQ(Verdict::Parse(bytes).proof, std::string(32, 'p'));
  EXPECT_FALSE(Verdict::Parse(Verdict{}.Format()).accepted);
}

TEST(Request, WorkerAddress_IsReadBackOnceWholeAndIsBounded) {
  Request request = {.type = MessageType::kConnect,
                     .segment = 9,
                     .secret = {1, 2},
                     .worker_address = std::string("\0some address", 13)};
  std::string bytes;
  request.AppendTo(&bytes);
  Request back;
  EXPECT_EQ(Request::Parse(std::string_view(bytes).substr(0, bytes.size() - 1), &back).value(), 0u);
  EXPECT_EQ(Request::Parse(bytes + "more", &back).value(), bytes.size());
  EXPECT_EQ(back.type, MessageType::kConnect);
  EXPECT_EQ(back.segment, request.segment);
  EXPECT_EQ(back.secret, request.secret);
  EXPECT_EQ(back.worker_address, request.worker_address);
  for (const size_t size : {size_t{0}, kMaxWorkerAddressBytes + 1}) {
    request.worker_address.assign(size, 'a');
    bytes.clear();
    request.AppendTo(&bytes);
    EXPECT_EQ(Request::Parse(bytes, &back).error().code(), ErrorCode::kCorrupt);
  }
}

TEST(UcxHeader, ItsBytes_AreReadBack) {
  const UcxHeader header = {.secret = {1, 2, 3}, .number = 77, .piece = 5};
  const auto bytes = header.Format();
  const std::string_view view(bytes.data(), bytes.size());
  const Result<UcxHeader> back = UcxHeader::Parse(view);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->secret, header.secret);
  EXPECT_EQ(back->number, 77u);
  EXPECT_EQ(back->piece, 5u);
  EXPECT_FALSE(UcxHeader::Parse(view.substr(1)).ok());
  EXPECT_FALSE(UcxHeader::Parse({}).ok());
}

TEST(Request, ItsBytes_AreReadBackOnceWhole) {
  std::string bytes;
  ExampleRequest().AppendTo(&bytes);
  ASSERT_EQ(bytes.size(), kRequestHeaderBytes + 2 * kPieceBytes);
  Request back;
  for (size_t size = 0; size < bytes.size(); ++size) {
    const Result<size_t> used = Request::Parse(std::string_view(bytes).substr(0, size), &back);
    ASSERT_TRUE(used.ok());
    EXPECT_EQ(*used, 0u);
  }
  const Result<size_t> used = Request::Parse(bytes + "more", &back);
  ASSERT_TRUE(used.ok());
  EXPECT_EQ(*used, bytes.size());
  EXPECT_EQ(back.number, 7u);
  EXPECT_EQ(back.segment, 9u);
  EXPECT_EQ(back.secret, ExampleRequest().secret);
  EXPECT_EQ(back.pieces, ExampleRequest().pieces);
  EXPECT_EQ(back.TotalBytes(), 7u);
}

TEST(Request, WhatNoReaderSends_IsCorrupt) {
  auto is_corrupt = [](const Request& request) {
    std::string bytes;
    request.AppendTo(&bytes);
    Request back;
    const Result<size_t> used = Request::Parse(bytes, &back);
    return !used.ok() && used.error().code() == ErrorCode::kCorrupt;
  };
  Request request = ExampleRequest();
  request.type = static_cast<MessageType>(0);
  EXPECT_TRUE(is_corrupt(request));
  request.type = MessageType::kGone;
  EXPECT_TRUE(is_corrupt(request));
  request = ExampleRequest();
  request.pieces.clear();
  EXPECT_TRUE(is_corrupt(request));
  request = ExampleRequest();
  request.pieces[0].length = 0;
  EXPECT_TRUE(is_corrupt(request));
  request.pieces[0].length = kMaxRequestBytes;
  EXPECT_TRUE(is_corrupt(request));
  request.pieces[0].length = UINT64_MAX;
  EXPECT_TRUE(is_corrupt(request));
  request = ExampleRequest();
  request.pieces.resize(kMaxPieces + 1, {.offset = 0, .length = 1});
  EXPECT_TRUE(is_corrupt(request));
}

TEST(Reply, ItsBytes_AreReadBack) {
  const Reply reply = {.type = MessageType::kOpen,
                       .status = ReplyStatus::kNoFile,
                       .number = 1,
                       .length = 2,
                       .offset = 3};
  const Result<Reply> back = Reply::Parse(reply.Format());
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->type, MessageType::kOpen);
  EXPECT_EQ(back->status, ReplyStatus::kNoFile);
  EXPECT_EQ(back->number, 1u);
  EXPECT_EQ(back->length, 2u);
  EXPECT_EQ(back->offset, 3u);
}

TEST(Reply, UnknownTypeOrStatus_IsCorrupt) {
  std::array<char, kReplyBytes> bytes = Reply{}.Format();
  bytes[0] = 7;
  EXPECT_EQ(Reply::Parse(bytes).error().code(), ErrorCode::kCorrupt);
  bytes = Reply{}.Format();
  bytes[1] = 5;
  EXPECT_EQ(Reply::Parse(bytes).error().code(), ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace halfmoon::transfer
