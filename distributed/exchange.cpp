#include "binade/distributed/exchange.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "binade/core/base/error.h"

namespace binade::dist {

namespace {

constexpr std::size_t largest_piece = std::size_t{1} << 30;  // MPI counts in int

std::string list_of(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < ranks.size(); ++i) text += (i ? ", " : "") + std::to_string(ranks[i]);
  return text;
}

}  // namespace

Exchange::Exchange(const MpiFunctions& mpi, int rank, int size, std::chrono::milliseconds timeout)
    : mpi_(mpi), rank_(rank), size_(size), timeout_(timeout), peers_(static_cast<std::size_t>(size)) {}

Exchange::Header Exchange::header_of(const Collective& c) {
  Header header{.sequence = c.sequence, .root = c.root, .kind = c.kind, .op = c.op};
  if (c.kind != CollectiveKind::barrier) {
    header.numel = c.spec.shape.numel();
    header.dtype = c.spec.dtype;
  }
  return header;
}

// ---- messages

void Exchange::send(Bytes bytes, int peer, Tag tag) {
  for (std::size_t at = 0; at < bytes.size(); at += largest_piece) {
    const std::size_t count = std::min(largest_piece, bytes.size() - at);
    void* message = mpi_.send(bytes.data() + at, count, peer, static_cast<int>(tag));
    check(message != nullptr, doing_, ": sending to rank ", peer, " failed");
    outgoing_.emplace_back(peer, message);
  }
}

void Exchange::receive(Room bytes, int peer) {
  for (std::size_t at = 0; at < bytes.size(); at += largest_piece) {
    const std::size_t count = std::min(largest_piece, bytes.size() - at);
    void* message = mpi_.receive(bytes.data() + at, count, peer, static_cast<int>(Tag::data));
    check(message != nullptr, doing_, ": receiving from rank ", peer, " failed");
    peers_[static_cast<std::size_t>(peer)].incoming.push_back(message);
  }
}

bool Exchange::tested(void* message, int peer, const char* what) {
  const int result = mpi_.test(message);
  check(result >= 0, doing_, ": ", what, " rank ", peer, " failed: it has probably ended");
  return result == 1;
}

void Exchange::say(const Header& header) {
  said_.push_back(header);
  for (int r = 0; r < size_; ++r) {
    if (r != rank_) send(std::as_bytes(std::span(&said_.back(), 1)), r, Tag::header);
  }
}

void Exchange::post_header_receives() {
  for (int r = 0; r < size_; ++r) {
    Peer& peer = peers_[static_cast<std::size_t>(r)];
    if (r == rank_ || peer.header) continue;
    peer.arrived = false;
    peer.header = mpi_.receive(peer.heard.get(), sizeof(Header), r, static_cast<int>(Tag::header));
    check(peer.header != nullptr, doing_, ": receiving from rank ", r, " failed");
  }
}

// ---- one collective

void Exchange::begin(const Collective& collective) {
  own_ = header_of(collective);
  doing_ = collective.text();
  deadline_ = std::chrono::steady_clock::now() + timeout_;
  post_header_receives();
  say(own_);
}

// Launchers end every rank once one has ended: the rank that failed first gets the time to say why.
void Exchange::fail_with(int r, const std::string& reason) const {
  std::this_thread::sleep_for(std::chrono::seconds(1));
  fail({doing_, ": rank ", to_text(r), " has ended: ", reason});
}

void Exchange::check_header(int r) const {
  const Header& heard = *peers_[static_cast<std::size_t>(r)].heard;
  if (heard.speech == Speech::left)
    fail({doing_, ": rank ", to_text(r), " has left: its last collective was #", to_text(heard.sequence)});
  if (heard.speech == Speech::failed) fail_with(r, heard.text);
  // all_gather's, reduce_scatter's and all_to_all's inputs have one size on all ranks, as the others'.
  const bool same = heard.sequence == own_.sequence && heard.kind == own_.kind && heard.op == own_.op &&
                    heard.root == own_.root && heard.dtype == own_.dtype && heard.numel == own_.numel;
  check(same, doing_, ": the ranks call different collectives: rank ", r, " is in ", name(heard.kind), " #", heard.sequence,
        " (", name(heard.op), ", root ", heard.root, ", ", to_text(heard.dtype), ", ", heard.numel, " elements), rank ",
        rank_, " has ", own_.numel, " elements of ", to_text(own_.dtype));
}

bool Exchange::progress_headers(std::span<const Room> wanted) {
  bool all = true;
  for (int r = 0; r < size_; ++r) {
    Peer& peer = peers_[static_cast<std::size_t>(r)];
    if (r == rank_ || peer.arrived) continue;
    if (!tested(peer.header, r, "receiving from")) {
      all = false;
      continue;
    }
    peer.header = nullptr;
    peer.arrived = true;
    check_header(r);
    if (!wanted.empty()) receive(wanted[static_cast<std::size_t>(r)], r);
  }
  return all;
}

bool Exchange::progress_data() {
  bool all = true;
  for (int r = 0; r < size_; ++r) {
    auto& incoming = peers_[static_cast<std::size_t>(r)].incoming;
    std::erase_if(incoming, [&](void* message) { return tested(message, r, "receiving from"); });
    all = all && incoming.empty();
  }
  return all;
}

bool Exchange::progress_sends() {
  std::erase_if(outgoing_, [&](const auto& sent) { return tested(sent.second, sent.first, "sending to"); });
  if (outgoing_.empty()) said_.clear();
  return outgoing_.empty();
}

void Exchange::time_out() {
  timed_out_ = true;
  std::vector<int> absent, silent;
  for (int r = 0; r < size_; ++r) {
    const Peer& peer = peers_[static_cast<std::size_t>(r)];
    if (r == rank_) continue;
    if (!peer.arrived) absent.push_back(r);
    else if (!peer.incoming.empty() || std::ranges::any_of(outgoing_, [&](const auto& sent) { return sent.first == r; }))
      silent.push_back(r);
  }
  std::string who;
  if (!absent.empty()) who = "not arrived: " + list_of(absent);
  if (!silent.empty()) who += (who.empty() ? "" : "; ") + ("arrived, but silent since: " + list_of(silent));
  fail({doing_, ": rank ", to_text(rank_), " waited for ", to_text(static_cast<double>(timeout_.count()) / 1000), " s: ", who});
}

// Runs `step` until it returns true: eagerly at first, then with short sleeps, so that other ranks can use the cores.
template <class Step>
void Exchange::poll(const Step& step) {
  for (int turn = 0; !step(); ++turn) {
    if (std::chrono::steady_clock::now() > deadline_) time_out();
    if (turn < 200) std::this_thread::yield();
    else std::this_thread::sleep_for(std::chrono::microseconds(std::min(20 + turn / 10, 500)));
  }
}

void Exchange::swap(std::span<const Bytes> out, std::span<const Room> in) {
  for (int r = 0; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (r == rank_) continue;
    send(out[i], r, Tag::data);
    if (peers_[i].arrived) receive(in[i], r);
  }
  poll([&] {
    const bool headers = progress_headers(in), data = progress_data(), sends = progress_sends();
    return headers && data && sends;
  });
}

void Exchange::end() {
  poll([&] {
    const bool headers = progress_headers({}), sends = progress_sends();
    return headers && sends;
  });
  for (Peer& peer : peers_) peer.arrived = false;
}

// ---- leaving

std::string Exchange::leave() {
  doing_ = "leaving the group";
  deadline_ = std::chrono::steady_clock::now() + timeout_;
  try {
    post_header_receives();
    say({.sequence = own_.sequence, .speech = Speech::left});
    poll([&] {
      bool all = progress_sends();
      for (int r = 0; r < size_; ++r) {
        Peer& peer = peers_[static_cast<std::size_t>(r)];
        if (r == rank_ || peer.arrived) continue;
        peer.arrived = tested(peer.header, r, "receiving from");
        all = all && peer.arrived;
        if (!peer.arrived) continue;
        peer.header = nullptr;
        if (peer.heard->speech == Speech::failed) fail_with(r, peer.heard->text);
        check(peer.heard->speech == Speech::left, doing_, ": rank ", r, " still calls ", name(peer.heard->kind), " #",
              peer.heard->sequence);
      }
      return all;
    });
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

void Exchange::leave_failed(const std::string& why) noexcept {
  Header header{.speech = Speech::failed};
  std::strncpy(header.text, why.c_str(), sizeof header.text - 1);
  try {
    deadline_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
    outgoing_.clear();  // what was under way stays under way
    say(header);
    poll([&] { return progress_sends(); });
  } catch (const Error&) {  // a rank that does not listen cannot be told
  }
}

}  // namespace binade::dist
