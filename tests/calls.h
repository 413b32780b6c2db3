// Functions of a program, called through its standard input and output by calls.py. A call is the
// function's name and its arguments, an answer its result; both come behind their number of bytes.
// Every value is an array, of rank 0 if it is a number: a letter for its type, as NumPy has it, the
// rank, the sizes, the elements. A tuple is a t, the number of its values, and these.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace calls {

template <class T>
inline constexpr char kLetter = 0;
template <>
inline constexpr char kLetter<char> = 'B';
template <>
inline constexpr char kLetter<uint16_t> = 'H';
template <>
inline constexpr char kLetter<int64_t> = 'q';
template <>
inline constexpr char kLetter<float> = 'f';
template <>
inline constexpr char kLetter<double> = 'd';

template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(std::vector<int64_t> shape) : shape_(std::move(shape)) {
    int64_t size = 1;
    for (int64_t n : shape_) size *= n;
    data_.resize(size);
  }
  explicit Array(int64_t size) : Array(std::vector<int64_t>{size}) {}

  int rank() const { return int(shape_.size()); }
  int64_t shape(int i) const { return shape_.at(i); }
  int64_t size() const { return int64_t(data_.size()); }
  const T* data() const { return data_.data(); }
  T* mutable_data() { return data_.data(); }

 private:
  std::vector<int64_t> shape_;
  std::vector<T> data_;
};

class Arguments {
 public:
  explicit Arguments(const std::string& bytes) : next_(bytes.data()) {}

  template <class T>
  void take(Array<T>& to) {
    if (take<char>() != kLetter<T>) throw std::invalid_argument("an argument of another type");
    std::vector<int64_t> shape(take<char>());
    for (int64_t& n : shape) n = take<int64_t>();
    to = Array<T>(shape);
    copy(to.mutable_data(), to.size() * sizeof(T));
  }
  template <class T>
  void take(std::vector<T>& to) {
    const Array<T> array = taken<T>(1);
    to.assign(array.data(), array.data() + array.size());
  }
  void take(std::string& to) {
    const Array<char> array = taken<char>(1);
    to.assign(array.data(), array.size());
  }
  template <class T>
    requires std::is_integral_v<T>
  void take(T& to) {
    to = T(*taken<int64_t>(0).data());
  }

 private:
  template <class T>
  Array<T> taken(int rank) {
    Array<T> array;
    take(array);
    if (array.rank() != rank) throw std::invalid_argument("an argument of another rank");
    return array;
  }
  template <class T>
  T take() {
    T value;
    copy(&value, sizeof value);
    return value;
  }
  void copy(void* to, size_t bytes) {
    if (bytes) std::memcpy(to, next_, bytes);
    next_ += bytes;
  }

  const char* next_;
};

class Answer {
 public:
  const std::string& bytes() const { return bytes_; }

  template <class T>
  void add(const Array<T>& value) {
    bytes_ += kLetter<T>;
    bytes_ += char(value.rank());
    for (int i = 0; i < value.rank(); ++i) copy(value.shape(i));
    bytes_.append(reinterpret_cast<const char*>(value.data()), value.size() * sizeof(T));
  }
  template <class T>
  void add(const std::vector<T>& value) {
    Array<T> array(int64_t(value.size()));
    std::copy(value.begin(), value.end(), array.mutable_data());
    add(array);
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  void add(T value) {
    using Own = std::conditional_t<std::is_integral_v<T>, int64_t, T>;
    bytes_ += kLetter<Own>;
    bytes_ += char(0);
    copy(Own(value));
  }
  template <class A, class B>
  void add(const std::pair<A, B>& value) {
    add(std::tuple<const A&, const B&>(value.first, value.second));
  }
  template <class... T>
  void add(const std::tuple<T...>& value) {
    bytes_ += 't';
    bytes_ += char(sizeof...(T));
    std::apply([this](const auto&... each) { (add(each), ...); }, value);
  }
  void fail(const char* why) { bytes_ = std::string("!") + why; }

 private:
  template <class T>
  void copy(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  std::string bytes_;
};

class Functions {
 public:
  template <class R, class... A>
  void add(const std::string& name, R (*function)(A...)) {
    all_[name] = [function](Arguments& from, Answer& to) {
      std::tuple<std::decay_t<A>...> given;
      std::apply([&](auto&... each) { (from.take(each), ...); }, given);
      to.add(std::apply(function, std::move(given)));
    };
  }

  // Until the caller has no more.
  void serve() const {
    for (int64_t size; std::fread(&size, sizeof size, 1, stdin) == 1;) {
      std::string call(size, 0);
      if (std::fread(call.data(), 1, size, stdin) != size_t(size)) return;
      const std::string answer = answer_to(call);
      size = int64_t(answer.size());
      std::fwrite(&size, sizeof size, 1, stdout);
      std::fwrite(answer.data(), 1, answer.size(), stdout);
      std::fflush(stdout);
    }
  }

 private:
  std::string answer_to(const std::string& call) const {
    Answer answer;
    try {
      Arguments from(call);
      std::string name;
      from.take(name);
      const auto found = all_.find(name);
      if (found == all_.end()) throw std::invalid_argument("no function " + name);
      found->second(from, answer);
    } catch (const std::exception& error) {
      answer.fail(error.what());
    }
    return answer.bytes();
  }

  std::map<std::string, std::function<void(Arguments&, Answer&)>> all_;
};

}  // namespace calls
