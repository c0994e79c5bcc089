// Cross-entropy, of given logits and of a linear's, and their gradients
#include "tests/harness.h"
#include <algorithm>
#include <cmath>
#include "nn/functional.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;
using nn::kIgnore;

namespace {

// Every third row takes no part.
int32_t label(int64_t row, int64_t classes) { return row % 3 == 2 ? kIgnore : int32_t((row * 7 + 3) % classes); }
Tensor labels(int64_t rows, int64_t classes) {
    std::vector<int32_t> l;
    for (int64_t m = 0; m < rows; m++) l.push_back(label(m, classes));
    return from_ints(l);
}
double counted(int64_t rows) { return double(rows - rows / 3); }

struct Row { Numbers e; Real sum; double max = -INFINITY; };         // the maximum is of no consequence, so a constant for the gradient
Row exponentials(const Numbers& x, int64_t m, int64_t V, Round q) {
    Row r;
    for (int64_t v = 0; v < V; v++) r.max = std::max(r.max, x[size_t(m * V + v)].v);
    for (int64_t v = 0; v < V; v++) r.e.push_back(q(exp(q(x[size_t(m * V + v)] - r.max)))), r.sum = q(r.sum + r.e.back());
    return r;
}

Real row_loss(const Numbers& x, int64_t m, int64_t V, Round q) {
    if (label(m, V) == kIgnore) return 0;
    const Row r = exponentials(x, m, V, q);
    return q(q(log(r.sum)) + q(r.max - x[size_t(m * V + label(m, V))]));
}

std::string name(int64_t M, int64_t V, double spread) { return concat(M, "x", V, ", spread ", spread); }
Setting losses(int64_t M, int64_t V, double spread) {
    return {name(M, V, spread), {input({M, V}, 0, spread)},
            [=](const Tensors& x) {
                const Tensor loss({M});
                kernels::cross_entropy({.loss = loss, .x = x[0], .labels = labels(M, V).to(current_device())});
                return loss.reshape({M, 1});
            },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers y;
                for (int64_t m = 0; m < M; m++) y.push_back(row_loss(x[0], m, V, q));
                return y;
            }, Setting::Gradient::none, true};
}
Setting mean(int64_t M, int64_t V, double spread) {
    return {name(M, V, spread), {input({M, V}, 0, spread)}, [=](const Tensors& x) { return nn::cross_entropy(x[0], labels(M, V)); },
            [=](const std::vector<Numbers>& x, Round q) {
                Real sum;
                for (int64_t m = 0; m < M; m++) sum = q(sum + row_loss(x[0], m, V, q));
                return Numbers{q(sum / counted(M))};
            }, Setting::Gradient::checked, true};
}
Setting gradient(int64_t M, int64_t V, double spread) {
    return {name(M, V, spread), {input({M, V}, 0, spread)},
            [=](const Tensors& in) {
                Tensor x = in[0];
                x.set_needs_grad();
                Tape::current().backward(nn::cross_entropy(x, labels(M, V)));
                return x.grad();
            },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers y;
                for (int64_t m = 0; m < M; m++) {
                    const Row r = exponentials(x[0], m, V, q);
                    for (int64_t v = 0; v < V; v++)
                        y.push_back(label(m, V) == kIgnore ? Real() : q(q(q(r.e[size_t(v)] / r.sum) - double(v == label(m, V))) * q(1 / counted(M))));
                }
                return y;
            }, Setting::Gradient::none};        // its gradient is not the point: it is one
}

// The same of x w^T. Backward finds the logits, and leaves their gradient, in the type of the activations.
Setting projected(int64_t M, int64_t K, int64_t V) {
    return {concat(M, "x", K, "x", V), {input({M, K}), parameter({V, K})}, [=](const Tensors& x) { return nn::linear_cross_entropy(x[0], x[1], labels(M, V)); },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers logits;
                for (int64_t m = 0; m < M; m++)
                    for (int64_t v = 0; v < V; v++) {
                        Real sum;
                        for (int64_t k = 0; k < K; k++) sum = madd(x[0][size_t(m * K + k)], x[1][size_t(v * K + k)], sum, q);
                        logits.push_back(q.gradient_kept(q.stored(sum)));
                    }
                Real sum;
                for (int64_t m = 0; m < M; m++) sum = q(sum + row_loss(logits, m, V, q));
                return Numbers{q(sum / counted(M))};
            }, Setting::Gradient::checked, true};
}

const std::pair<int64_t, int64_t> kSizes[] = {{1, 2}, {2, 15}, {13, 17}, {7, 65}, {5, 257}, {3, 4097}, {2, 32064}};

// Loss, dx and dw of one way to compute them.
template <class F> Tensors with_gradients(Tensor x, Tensor w, const F& loss, float factor) {
    x.set_needs_grad(), w.set_needs_grad();
    const Tensor l = loss(x, w);
    Tape::current().backward(l, from_floats(std::array{factor}, {1}));
    return {l, x.grad(), w.grad()};
}

}

TEST_CASE("cross_entropy: the loss of each row") {
    std::vector<Setting> s;
    for (auto [M, V] : kSizes) for (double spread : {1.0, 10.0, 40.0}) s.push_back(losses(M, V, spread));
    check_op("cross_entropy", s);
}

TEST_CASE("cross_entropy: the mean and its gradient") {
    std::vector<Setting> s, d;
    for (auto [M, V] : kSizes)
        for (double spread : {1.0, 10.0, 40.0}) {
            d.push_back(gradient(M, V, spread));
            if (spread < 40) s.push_back(mean(M, V, spread));
        }
    check_op("cross_entropy mean", s);
    check_op("cross_entropy d", d);
}

TEST_CASE("cross_entropy: the mean over labels, or the sum over a count; ignored rows are not read") {
    Tensor x = normal({3, 9}, "x");
    const Tensor l = labels(3, 9), rows({3});
    kernels::cross_entropy({.loss = rows, .x = x, .labels = l});
    const double sum = double(rows.data<float>()[0]) + double(rows.data<float>()[1]);      // two numbers: the order is of no consequence
    EXPECT_EQ(nn::cross_entropy(x, l).data<float>()[0], float(sum / 2));
    EXPECT_EQ(nn::cross_entropy(x, l, 17).data<float>()[0], float(sum / 17));
    std::fill_n(x.data<float>() + 2 * 9, 9, NAN);
    EXPECT_EQ(nn::cross_entropy(x, l).data<float>()[0], float(sum / 2));
    x.set_needs_grad();
    Tape::current().backward(nn::cross_entropy(x, l));
    for (int i = 0; i < 9; i++) EXPECT_EQ(x.grad().data<float>()[18 + i], 0.0f);
    x.data<float>()[0] = NAN;
    EXPECT(std::isnan(nn::cross_entropy(x, l).data<float>()[0]));
}

TEST_CASE("cross_entropy: bf16 logits are those numbers in f32, their gradient rounded") {
    const Tensor half = normal({7, 301}, "x", 0, 5, DType::bf16), l = labels(7, 301);
    Tensor x = half, wide = from_floats(to_floats(half), half.shape());
    x.set_needs_grad(), wide.set_needs_grad();
    const Tensor a = nn::cross_entropy(x, l), b = nn::cross_entropy(wide, l);
    EXPECT(same_bits(a, b));
    Tape::current().backward(a), Tape::current().clear();
    const Tensor c = nn::cross_entropy(wide, l);
    Tape::current().backward(c);
    EXPECT(same_bits(x.grad(), from_floats(to_floats(wide.grad()), wide.shape(), DType::bf16)));
}

TEST_CASE("linear_cross_entropy") {
    check_op("linear_cross_entropy", {projected(1, 1, 2), projected(2, 15, 7), projected(13, 33, 17), projected(7, 257, 15), projected(5, 17, 65), projected(513, 3, 5)});
}

TEST_CASE("linear_cross_entropy: loss, dx and dw have the bits of linear and cross_entropy, whatever the chunk and the threads") {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const int64_t M : {1, 256, 511, 512, 513, 1600}) {
            const int64_t K = 33, V = 70;
            const Tensor x = normal({M, K}, "x", 0, 1, dtype), w = normal({V, K}, "w", 0, 1, dtype), l = labels(M, V);
            const Tensors want = with_gradients(x, w, [&](const Tensor& x, const Tensor& w) { return nn::cross_entropy(nn::linear(x, w, {}), l); }, 0.37f);
            for (const int64_t chunk : {512, 1024, 4096})
                for (const int threads : {1, 3}) {
                    const Threads n(threads);
                    const Tensors got = with_gradients(x, w, [&](const Tensor& x, const Tensor& w) { return nn::linear_cross_entropy(x, w, l, 0, chunk); }, 0.37f);
                    for (size_t i = 0; i < 3; i++) EXPECT_MESSAGE(same_bits(got[i], want[i]), name_of(dtype), " ", M, " rows by ", chunk, ": ", (i == 0 ? "loss" : i == 1 ? "dx" : "dw"));
                }
        }
}

TEST_CASE("cross_entropy, linear_cross_entropy: wrong arguments are refused by name") {
    const Tensor x = normal({2, 8}, "x"), w = normal({5, 8}, "w");
    auto ints = [](std::vector<int32_t> v) { return from_ints(v); };
    auto refused = [&](const char* what, auto call) { EXPECT_THROWS_WITH_AS(call(), doctest::Contains(what), std::logic_error); };
    refused("cross_entropy: labels i32(1) for 2 rows", [&] { nn::cross_entropy(x, ints({1})); });
    refused("cross_entropy: label 8 of 8 classes", [&] { nn::cross_entropy(x, ints({1, 8})); });
    refused("cross_entropy: label -1 of 8 classes", [&] { nn::cross_entropy(x, ints({1, -1})); });
    refused("cross_entropy: 0 labels", [&] { nn::cross_entropy(x, ints({kIgnore, kIgnore})); });
    refused("cross_entropy: 2 labels, divided by 1", [&] { nn::cross_entropy(x, ints({1, 2}), 1); });
    refused("linear_cross_entropy: label 5 of 5 classes", [&] { nn::linear_cross_entropy(x, w, ints({1, 5})); });
    refused("linear_cross_entropy: chunks of 100 rows", [&] { nn::linear_cross_entropy(x, w, ints({1, 2}), 0, 100); });
    refused("linear_cross_entropy: x ", [&] { nn::linear_cross_entropy(x, normal({5, 7}, "w"), ints({1, 2})); });
    EXPECT_EQ(nn::cross_entropy(x, ints({kIgnore, kIgnore}), 3).data<float>()[0], 0.0f);       // another rank has the labels
}
