// Exchange: what the ranks of an MPI group send each other. A collective begins with a header to every other rank, which
// says what is called; data follow. So a rank knows who has not arrived, that all call the same, and who has left and why.
#pragma once
#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "binade/distributed/mpi/functions.h"
#include "binade/distributed/process_group.h"

namespace binade::dist {

class Exchange {
 public:
  using Bytes = std::span<const std::byte>;
  using Room = std::span<std::byte>;

  Exchange(const MpiFunctions& mpi, int rank, int size, std::chrono::milliseconds timeout);

  // Begins a collective: its deadline runs, its header goes out. The previous one must have ended.
  void begin(const Collective& collective);
  // Sends out[r] to rank r and fills in[r] from it; own and empty parts are skipped. Returns when all of it is done.
  // Throws Error for a rank that is late, calls something else, or has left.
  void swap(std::span<const Bytes> out, std::span<const Room> in);
  void end();  // waits for the headers of ranks from which this one needed no data

  // The last words to all. A clean leave waits until all others leave too; returns what went wrong, or nothing.
  std::string leave();
  void leave_failed(const std::string& why) noexcept;
  bool timed_out() const { return timed_out_; }  // a rank did not come, and nobody knows why

 private:
  enum class Tag : int { header = 1, data = 2 };
  enum class Speech : std::uint8_t { collective, left, failed };
  struct Header {
    std::uint64_t sequence = 0;
    std::int64_t numel = 0;  // of the input
    std::int32_t root = 0;
    Speech speech = Speech::collective;
    CollectiveKind kind = CollectiveKind::barrier;
    ReduceOp op = ReduceOp::sum;
    DType dtype = DType::f32;
    char text[232] = "";  // of a failure
  };
  struct Peer {
    std::unique_ptr<Header> heard = std::make_unique<Header>();  // where its next header arrives
    void* header = nullptr;  // the message that brings it, while it is under way
    bool arrived = false;
    std::vector<void*> incoming;  // data under way, in pieces that MPI can count
  };

  static Header header_of(const Collective& collective);
  void post_header_receives();
  void say(const Header& header);
  void send(Bytes bytes, int peer, Tag tag);
  void receive(Room bytes, int peer);
  bool tested(void* message, int peer, const char* what);  // done? throws when it failed
  bool progress_headers(std::span<const Room> wanted);
  bool progress_data();
  bool progress_sends();
  [[noreturn]] void fail_with(int r, const std::string& reason) const;
  void check_header(int peer) const;
  template <class Step>
  void poll(const Step& step);
  [[noreturn]] void time_out();

  const MpiFunctions& mpi_;
  int rank_, size_;
  std::chrono::milliseconds timeout_;
  std::chrono::steady_clock::time_point deadline_;
  std::vector<Peer> peers_;  // by rank; the own one unused
  std::list<Header> said_;   // kept while they are being sent
  std::vector<std::pair<int, void*>> outgoing_;
  Header own_;         // of the current collective
  std::string doing_;  // the current collective, for errors
  bool timed_out_ = false;
};

}  // namespace binade::dist
