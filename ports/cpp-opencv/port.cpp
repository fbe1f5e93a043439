// A model of tutelage in OpenCV. It proves itself on the golden images, then classifies yours.
//
// apt-get install g++ cmake libopencv-dnn-dev libopencv-imgcodecs-dev nlohmann-json3-dev
// cmake -B build && cmake --build build && build/port model.onnx.json [IMAGE...]
//
// `tutelage export MODEL --view` writes the description, the model and the golden images.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

using Json = nlohmann::json;
namespace fs = std::filesystem;

struct Answer {
  std::vector<float> probabilities;
  float energy;
};

// Weights (out, in) that resample the window [start, start + length] of a line, as Pillow's
// BILINEAR does: a triangle that widens with the scale when it makes smaller.
cv::Mat weights(int in, int out, double start, double length) {
  cv::Mat matrix(out, in, CV_64F);
  const double scale = length / out, width = std::max(scale, 1.0);
  for (int row = 0; row < out; row++) {
    const double center = start + (row + 0.5) * scale;
    for (int pixel = 0; pixel < in; pixel++)
      matrix.at<double>(row, pixel) = std::max(0.0, 1 - std::abs(pixel + 0.5 - center) / width);
    matrix.row(row) /= cv::sum(matrix.row(row))[0];
  }
  return matrix;
}

cv::Mat rounded(cv::Mat image) {
  image.forEach<double>([](double& value, const int*) { value = std::floor(value + 0.5); });
  return image;
}

// The view (1, 3, S, S) of an upright image: squashed to the canvas, of which the centre is seen.
cv::Mat view_of(const cv::Mat& bgr, const Json& described) {
  const int canvas = described["canvas"], side = described["input_size"];
  const double crop = described["crop_pct"], shorter = std::min(bgr.rows, bgr.cols);
  const double height = canvas * crop * shorter / bgr.rows;
  const double width = canvas * crop * shorter / bgr.cols;
  const cv::Mat rows = weights(canvas, side, (canvas - height) / 2, height);
  const cv::Mat columns = weights(canvas, side, (canvas - width) / 2, width);
  cv::Mat view({1, 3, side, side}, CV_32F);
  for (int channel = 0; channel < 3; channel++) {
    cv::Mat plane, squashed, seen(side, side, CV_32F, view.ptr<float>(0, channel));
    cv::extractChannel(bgr, plane, 2 - channel);
    plane.convertTo(plane, CV_64F);
    squashed = rounded(plane * weights(bgr.cols, canvas, 0, bgr.cols).t());
    squashed = rounded(weights(bgr.rows, canvas, 0, bgr.rows) * squashed);
    cv::Mat(rows * squashed * columns.t() / 255).convertTo(seen, CV_32F);
  }
  return view;
}

Answer ask(cv::dnn::Net& net, const fs::path& image, const Json& described) {
  // Turned as its EXIF says. Where it is transparent, IMREAD_COLOR shows what lies below.
  const cv::Mat bgr = cv::imread(image.string(), cv::IMREAD_COLOR);
  if (bgr.empty()) throw std::runtime_error(image.string() + " is no image that OpenCV reads");
  net.setInput(view_of(bgr, described));
  std::vector<cv::Mat> found;
  net.forward(found, std::vector<cv::String>{"probabilities", "energy"});
  return {{found[0].begin<float>(), found[0].end<float>()}, *found[1].ptr<float>()};
}

// The likeliest class, or the one that the model's decision threshold gives.
std::string label_of(std::vector<float> probabilities, const Json& described) {
  const std::vector<std::string> classes = described["classes"];
  if (const Json& threshold = described["decision_threshold"]; !threshold.is_null()) {
    const std::string name = threshold[0];
    float& own = probabilities[std::find(classes.begin(), classes.end(), name) - classes.begin()];
    if (own >= threshold[1].get<float>()) return name;
    own = -1;
  }
  const auto likeliest = std::max_element(probabilities.begin(), probabilities.end());
  return classes[likeliest - probabilities.begin()];
}

// Whether the answers to the golden images in a folder are the ones that are written there.
bool prove(cv::dnn::Net& net, const Json& described, const fs::path& folder) {
  const Json golden = Json::parse(std::ifstream(folder / "golden.json"));
  double probability = 0, energy = 0;
  for (const Json& known : golden["images"]) {
    const Answer found = ask(net, folder / known["image"], described);
    const std::vector<float> expected = known["probabilities"];
    probability = std::max(probability, cv::norm(found.probabilities, expected, cv::NORM_INF));
    energy = std::max(energy, std::abs(found.energy - known["energy"].get<double>()));
    if (label_of(expected, described) != known["label"])
      throw std::runtime_error("the rule for labels differs");
  }
  std::cout << "largest difference of a probability " << probability << ", of an energy " << energy
            << "\n";
  const double allowed = golden["tolerance"];  // of a probability: a logit moves it by a quarter
  return probability <= allowed && energy <= 4 * allowed;
}

int main(int count, char** words) try {
  if (count < 2) throw std::runtime_error("port model.onnx.json [IMAGE...]");
  const fs::path description = words[1], folder = description.parent_path();
  const Json described = Json::parse(std::ifstream(description));
  if (described["files"]["view"].is_null())
    throw std::runtime_error("no view file; write one with tutelage export MODEL --view");
  cv::dnn::Net net = cv::dnn::readNetFromONNX(folder / described["files"]["view"]);
  if (!prove(net, described, folder / "golden"))
    throw std::runtime_error("these answers are not the model's");
  for (int i = 2; i < count; i++) {
    const Answer answer = ask(net, words[i], described);
    const Json& limit = described["unknown_threshold"];
    const bool unknown = !limit.is_null() && answer.energy > limit.get<float>();
    const std::string label = unknown ? "unknown" : label_of(answer.probabilities, described);
    std::cout << words[i] << ": " << label << "\n";
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
