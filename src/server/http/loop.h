// One thread that holds connections: they, their timers and their generations are touched by it alone.
#pragma once
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <memory>
#include <thread>
#include <unordered_set>

#include "server/mailbox.h"

namespace trireme::server {

class Connection;

struct Loop {
  Loop()
      : work(context.get_executor()), mailbox(std::make_shared<Mailbox>([this] {
          boost::asio::post(context, [box = mailbox] { box->deliver(); });
        })) {}

  boost::asio::io_context context{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work;
  std::shared_ptr<Mailbox> mailbox;
  std::unordered_set<Connection*> connections;  // the loop's own
  std::thread thread;
};

}  // namespace trireme::server
