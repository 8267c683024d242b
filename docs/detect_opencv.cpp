// A YOLOv3 model on a photo with OpenCV alone: NAME-raw.onnx, a photo, the lowest score.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// A field of a message in protobuf's encoding, which ONNX files have: its number and, where it has any, its bytes.
struct Field {
    uint64_t number;
    std::string_view bytes;
};

std::vector<Field> fields(std::string_view message) {
    size_t place = 0;
    auto varint = [&] {
        uint64_t value = 0;
        for (int shift = 0; place < message.size() && shift < 64; shift += 7) {
            const uint8_t byte = message[place++];
            value |= uint64_t(byte & 127) << shift;
            if (byte < 128) return value;
        }
        throw std::runtime_error("not an ONNX file");
    };
    std::vector<Field> found;
    while (place < message.size()) {
        const uint64_t key = varint();
        const int wire = key & 7;
        if (wire == 0) varint();
        const uint64_t length = wire == 2 ? varint() : wire == 1 ? 8 : wire == 5 ? 4 : 0;
        if (wire == 3 || wire == 4 || wire > 5 || length > message.size() - place) throw std::runtime_error("not an ONNX file");
        found.push_back({key >> 3, message.substr(place, length)});
        place += length;
    }
    return found;
}

// What the file says of itself: metadata_props (field 14), each with a key (1) and a JSON text (2).
std::map<std::string, std::string> metadata(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    std::map<std::string, std::string> values;
    for (const Field& field : fields(content)) {
        if (field.number != 14) continue;
        std::string parts[3];
        for (const Field& part : fields(field.bytes))
            if (part.number < 3) parts[part.number] = part.bytes;
        values[parts[1]] = parts[2];
    }
    return values;
}

// Sides that shrink to half or less by area, others linearly.
cv::Mat resized(const cv::Mat& image, cv::Size size) {
    cv::Size between(size.width * 2 <= image.cols ? size.width : image.cols,
                     size.height * 2 <= image.rows ? size.height : image.rows);
    cv::Mat half, whole;
    cv::resize(image, half, between, 0, 0, cv::INTER_AREA);
    cv::resize(half, whole, size, 0, 0, cv::INTER_LINEAR);
    return whole;
}

int main(int count, char** arguments) {
    if (count != 4) {
        std::cerr << "detect NAME-raw.onnx PHOTO SCORE\n";
        return 2;
    }
    const std::map<std::string, std::string> said = metadata(arguments[1]);
    std::string json = "{\"nms\": " + said.at("nms");
    for (const char* key : {"names", "width", "height", "mean", "std"}) json += std::string(", \"") + key + "\": " + said.at(key);
    const cv::FileStorage model(json + "}", cv::FileStorage::READ | cv::FileStorage::MEMORY | cv::FileStorage::FORMAT_JSON);
    std::vector<std::string> names;
    std::vector<double> mean, deviation;
    model["names"] >> names;
    model["mean"] >> mean;
    model["std"] >> deviation;
    const cv::Size size(model["width"], model["height"]);

    cv::dnn::Net network = cv::dnn::readNetFromONNX(arguments[1]);
    cv::Mat photo = cv::imread(arguments[2]);
    const float lowest = std::stof(arguments[3]);

    cv::Mat image;
    resized(photo, size).convertTo(image, CV_32F, 1 / 255.0);
    cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
    cv::subtract(image, cv::Scalar(mean[0], mean[1], mean[2]), image);
    cv::divide(image, cv::Scalar(deviation[0], deviation[1], deviation[2]), image);
    network.setInput(cv::dnn::blobFromImage(image), "data");

    std::vector<cv::Mat> outputs;
    network.forward(outputs, std::vector<cv::String>{"boxes", "scores"});
    const int places = outputs[0].size[1], classes = outputs[1].size[2];
    const cv::Mat boxes(places, 4, CV_32F, outputs[0].ptr<float>());
    const cv::Mat scores(places, classes, CV_32F, outputs[1].ptr<float>());
    const double x = double(photo.cols) / size.width, y = double(photo.rows) / size.height;
    for (int number = 0; number < classes; ++number) {
        std::vector<cv::Rect2d> rectangles;
        std::vector<float> values;
        for (int row = 0; row < places; ++row) {
            const float* box = boxes.ptr<float>(row);
            rectangles.emplace_back(box[0], box[1], box[2] - box[0], box[3] - box[1]);
            values.push_back(scores.at<float>(row, number));
        }
        std::vector<int> kept;
        cv::dnn::NMSBoxes(rectangles, values, lowest, float(model["nms"]["overlap"]), kept);
        for (int row : kept) {
            const float* box = boxes.ptr<float>(row);
            std::cout << names[number] << ' ' << values[row] << ' ' << std::max(0.0, box[0] * x) << ' ' << std::max(0.0, box[1] * y)
                      << ' ' << std::min(double(photo.cols), box[2] * x) << ' ' << std::min(double(photo.rows), box[3] * y) << '\n';
        }
    }
}
