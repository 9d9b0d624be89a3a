// Draft trees from the heads' logits: the most probable paths below each root.
#pragma once
#include "machine.h"
#include "sample.h"

namespace od {

// markov_in [vocab, rank], markov_out packed [vocab, rank]; null without the term. Results [sequences, nodes],
// level by level, so that parents come first; parent -1 is the root. count[sequences] nodes are filled. ids[vocab] are
// the tokens that logits stand for, where these aren't all (markov_in has a row for every token all the same); or null.
// Ranking by noise (decoding/drafting/ranking.py): temperature, stream and position [sequences], trust [drafts]; null without.
// share is then the part of a node's probability that its noise gives.
struct TreeArguments {
  int64_t sequences, drafts, vocab, rank, logits, roots, markov_in, markov_out, width, nodes;
  int64_t temperature, stream, position, trust;
  int64_t token, parent, depth, logprob, share, count, ids;
};

template <class T, class W> class Trees {
public:
  explicit Trees(Pool *pool) : m_(pool, Norm::rms, 0) {}

  void build(const TreeArguments &a) {
    const int64_t S = a.sequences, V = a.vocab;
    const auto *roots = reinterpret_cast<const int64_t *>(a.roots);
    const T *logits = reinterpret_cast<const T *>(a.logits);
    found_.assign(S, {});
    frontier_.clear();
    for (int64_t s = 0; s < S; ++s) frontier_.push_back({s, -1, roots[s], 0, 0});
    for (int64_t depth = 0; depth < a.drafts && !frontier_.empty(); ++depth) {
      if (a.temperature) draw(a, depth, V);
      if (a.rank)
        expand_each(a, logits, depth, V);
      else
        expand_shared(a, logits, depth, V);
      advance(a, depth);
    }
    finish(a);
  }

private:
  struct Node {
    int64_t sequence, index, token; // index among the sequence's nodes
    double score, share;
  };
  struct Found {
    int64_t token, parent, depth;
    double score, share;
  };
  struct Child {
    T score;
    int64_t token;
    T share;
  };
  struct Noise {
    T temperature, trust;
    const T *noise;
  };

  // The noise of this depth, of every sampled sequence that still has a node to expand.
  void draw(const TreeArguments &a, int64_t depth, int64_t V) {
    const auto *temperature = reinterpret_cast<const double *>(a.temperature);
    const auto *stream = reinterpret_cast<const int64_t *>(a.stream), *position = reinterpret_cast<const int64_t *>(a.position);
    const auto *ids = reinterpret_cast<const int64_t *>(a.ids);
    const double trust = reinterpret_cast<const double *>(a.trust)[depth];
    noise_.resize(a.sequences * V), ranked_.assign(a.sequences, Noise{0, 0, nullptr}), sampled_.clear();
    for (const Node &node : frontier_) {
      const int64_t s = node.sequence;
      if (!(temperature[s] > 0) || ranked_[s].noise) continue;
      ranked_[s] = {T(temperature[s]), T(trust), &noise_[s * V]};
      sampled_.push_back(s);
    }
    const int64_t pieces = (V + PIECE - 1) / PIECE;
    m_.items(int64_t(sampled_.size()) * pieces, [&](int64_t item, Scratch<T> &) {
      const int64_t s = sampled_[item / pieces], first = item % pieces * PIECE;
      const uint64_t key = hashed(uint64_t(stream[s]), uint64_t(position[s] + depth));
      noise_for(key, ids ? ids + first : nullptr, first, std::min(PIECE, V - first), &noise_[s * V + first]);
    });
  }

  void choose(const TreeArguments &a, int64_t sequence, T *row, T *other, const T *base, std::vector<Child> &best) const {
    if (a.temperature && ranked_[sequence].noise)
      best_perturbed(row, other, base, a.vocab, a.width, ranked_[sequence], best);
    else
      best_of(row, base, a.vocab, a.width, best);
  }

  // With a Markov term a head's distribution depends on the parent: one row of scores per frontier node.
  void expand_each(const TreeArguments &a, const T *logits, int64_t depth, int64_t V) {
    const int64_t width = int64_t(frontier_.size()), rank = a.rank;
    const T *in = reinterpret_cast<const T *>(a.markov_in);
    const W *out = reinterpret_cast<const W *>(a.markov_out);
    parents_.resize(width * rank), scores_.resize(width * V);
    for (int64_t i = 0; i < width; ++i) std::memcpy(&parents_[i * rank], in + frontier_[i].token * rank, rank * sizeof(T));
    m_.linear(parents_.data(), rank, rank, width, out, nullptr, scores_.data(), V, false);
    children_.resize(width), others_.resize(a.temperature ? width * V : 0);
    m_.items(width, [&](int64_t i, Scratch<T> &) {
      const int64_t s = frontier_[i].sequence;
      choose(a, s, &scores_[i * V], others_.data() + i * V, logits + (s * a.drafts + depth) * V, children_[i]);
    });
  }

  // Without one, all nodes of a depth share their children.
  void expand_shared(const TreeArguments &a, const T *logits, int64_t depth, int64_t V) {
    children_.resize(frontier_.size());
    scores_.resize(a.sequences * V), others_.resize(a.temperature ? a.sequences * V : 0);
    shared_.resize(a.sequences);
    m_.items(a.sequences, [&](int64_t s, Scratch<T> &) {
      std::fill_n(&scores_[s * V], V, T(0));
      choose(a, s, &scores_[s * V], others_.data() + s * V, logits + (s * a.drafts + depth) * V, shared_[s]);
    });
    for (size_t i = 0; i < frontier_.size(); ++i) children_[i] = shared_[frontier_[i].sequence];
  }

  // The `width` most probable tokens of softmax(row + base), best first, with their log-probabilities.
  static void best_of(T *row, const T *base, int64_t V, int64_t width, std::vector<Child> &best) {
    const int64_t full = V / LANES * LANES;
    Vec<T> top = splat(-std::numeric_limits<T>::infinity());
    for (int64_t v = 0; v < full; v += LANES) {
      const Vec<T> x = load(row + v) + load(base + v);
      store(row + v, x);
      top = larger<T>(top, x);
    }
    T m = maximum<T>(top);
    for (int64_t v = full; v < V; ++v) m = std::max(m, row[v] += base[v]);
    Vec<T> total = {};
    for (int64_t v = 0; v < full; v += LANES) total += exponential(load(row + v) - m);
    T mass = sum<T>(total);
    for (int64_t v = full; v < V; ++v) mass += std::exp(row[v] - m);
    const T normal = m + std::log(mass);
    largest(row, V, width, best);
    for (Child &child : best) child.score -= normal;
  }

  // The same for (1 - trust) q + trust softmax(log q / temperature + noise), q = softmax(row + base).
  static void best_perturbed(T *row, T *other, const T *base, int64_t V, int64_t width, const Noise &n,
                             std::vector<Child> &best) {
    const int64_t full = V / LANES * LANES;
    const T scale = 1 / n.temperature;
    Vec<T> top = splat(-std::numeric_limits<T>::infinity()), perturbed_top = top;
    for (int64_t v = 0; v < full; v += LANES) {
      const Vec<T> x = load(row + v) + load(base + v), y = x * scale + load(n.noise + v);
      store(row + v, x), store(other + v, y);
      top = larger<T>(top, x), perturbed_top = larger<T>(perturbed_top, y);
    }
    T m = maximum<T>(top), perturbed_m = maximum<T>(perturbed_top);
    for (int64_t v = full; v < V; ++v) {
      m = std::max(m, row[v] += base[v]);
      perturbed_m = std::max(perturbed_m, other[v] = row[v] * scale + n.noise[v]);
    }
    Vec<T> total = {}, perturbed_total = {};
    for (int64_t v = 0; v < full; v += LANES) {
      const Vec<T> x = exponential(load(row + v) - m), y = exponential(load(other + v) - perturbed_m);
      store(row + v, x), store(other + v, y);
      total += x, perturbed_total += y;
    }
    T mass = sum<T>(total), perturbed_mass = sum<T>(perturbed_total);
    for (int64_t v = full; v < V; ++v) {
      mass += row[v] = std::exp(row[v] - m);
      perturbed_mass += other[v] = std::exp(other[v] - perturbed_m);
    }
    const T own = (1 - n.trust) / mass, part = n.trust / perturbed_mass;
    for (int64_t v = 0; v < full; v += LANES) store(row + v, load(row + v) * own + load(other + v) * part);
    for (int64_t v = full; v < V; ++v) row[v] = row[v] * own + other[v] * part;
    largest(row, V, width, best);
    for (Child &child : best) {
      child.share = child.score > 0 ? other[child.token] * part / child.score : T(0);
      child.score = std::log(child.score);
    }
  }

  // The `width` largest entries, largest first.
  static void largest(const T *row, int64_t V, int64_t width, std::vector<Child> &best) {
    const int64_t full = V / LANES * LANES;
    best.clear();
    T least = -std::numeric_limits<T>::infinity();
    const auto offer = [&](int64_t v) {
      if (int64_t(best.size()) == width && !(row[v] > least)) return;
      if (int64_t(best.size()) == width) best.pop_back();
      auto at = best.end();
      while (at != best.begin() && (at - 1)->score < row[v]) --at;
      best.insert(at, {row[v], v, T(0)});
      if (int64_t(best.size()) == width) least = best.back().score;
    };
    for (int64_t v = 0; v < full; v += LANES) {
      const auto above = load(row + v) > least;
      typename Lanes<T>::I any = above;
      int64_t some = 0;
      for (int64_t i = 0; i < LANES; ++i) some |= any[i];
      if (some)
        for (int64_t i = 0; i < LANES; ++i) offer(v + i);
    }
    for (int64_t v = full; v < V; ++v) offer(v);
  }

  // Keeps the `width` best children per sequence; those that can't be among the best `nodes` end here.
  void advance(const TreeArguments &a, int64_t depth) {
    const auto *ids = reinterpret_cast<const int64_t *>(a.ids);
    next_.clear();
    for (size_t from = 0; from < frontier_.size();) {
      const int64_t s = frontier_[from].sequence;
      size_t to = from;
      pool_of_paths_.clear();
      for (; to < frontier_.size() && frontier_[to].sequence == s; ++to)
        for (const Child &child : children_[to]) {
          const int64_t token = ids ? ids[child.token] : child.token;
          const double score = frontier_[to].score + double(child.score);
          pool_of_paths_.push_back({s, frontier_[to].index, token, score, double(child.share)});
        }
      std::stable_sort(pool_of_paths_.begin(), pool_of_paths_.end(),
                       [](const Node &x, const Node &y) { return x.score > y.score; });
      if (int64_t(pool_of_paths_.size()) > a.width) pool_of_paths_.resize(a.width);
      auto &found = found_[s];
      for (const Node &path : pool_of_paths_) {
        if (!(path.score > -1e30)) continue;
        next_.push_back({s, int64_t(found.size()), path.token, path.score, path.share});
        found.push_back({path.token, path.index, depth + 1, path.score, path.share});
      }
      if (int64_t(found.size()) >= a.nodes) {
        order_.clear();
        for (const Found &f : found) order_.push_back(f.score);
        std::nth_element(order_.begin(), order_.begin() + a.nodes - 1, order_.end(), std::greater<>());
        const double bar = order_[a.nodes - 1];
        while (!next_.empty() && next_.back().sequence == s && next_.back().score < bar) next_.pop_back();
      }
      from = to;
    }
    frontier_.swap(next_);
  }

  // The best nodes of all depths; a parent is never worse than its children and comes before them.
  void finish(const TreeArguments &a) {
    auto *token = reinterpret_cast<int64_t *>(a.token), *parent = reinterpret_cast<int64_t *>(a.parent);
    auto *depth = reinterpret_cast<int64_t *>(a.depth), *count = reinterpret_cast<int64_t *>(a.count);
    auto *logprob = reinterpret_cast<double *>(a.logprob), *share = reinterpret_cast<double *>(a.share);
    for (int64_t s = 0; s < a.sequences; ++s) {
      const auto &found = found_[s];
      ranks_.resize(found.size());
      for (size_t i = 0; i < found.size(); ++i) ranks_[i] = int64_t(i);
      std::stable_sort(ranks_.begin(), ranks_.end(), [&](int64_t x, int64_t y) { return found[x].score > found[y].score; });
      if (int64_t(ranks_.size()) > a.nodes) ranks_.resize(a.nodes);
      std::sort(ranks_.begin(), ranks_.end());
      renumbered_.assign(found.size(), -1);
      for (size_t n = 0; n < ranks_.size(); ++n) renumbered_[ranks_[n]] = int64_t(n);
      count[s] = int64_t(ranks_.size());
      for (size_t n = 0; n < ranks_.size(); ++n) {
        const Found &f = found[ranks_[n]];
        const int64_t at = s * a.nodes + int64_t(n);
        token[at] = f.token, depth[at] = f.depth, logprob[at] = f.score;
        parent[at] = f.parent < 0 ? -1 : renumbered_[f.parent];
        if (share) share[at] = f.share;
      }
    }
  }

  static constexpr int64_t PIECE = 512;
  Machine<T, W> m_;
  std::vector<Noise> ranked_;
  std::vector<int64_t> sampled_;
  std::vector<std::vector<Found>> found_;
  std::vector<Node> frontier_, next_, pool_of_paths_;
  std::vector<std::vector<Child>> children_, shared_;
  std::vector<T> parents_, scores_, others_, noise_;
  std::vector<double> order_;
  std::vector<int64_t> ranks_, renumbered_;
};

} // namespace od
