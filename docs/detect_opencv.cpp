// A YOLOv3 model on a photo with OpenCV alone: NAME-raw.onnx, a photo, the lowest score.
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

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
    if (count != 6) {
        std::cerr << "detect NAME-raw.onnx PHOTO SCORE WIDTH HEIGHT\n";
        return 2;
    }
    cv::dnn::Net network = cv::dnn::readNetFromONNX(arguments[1]);
    cv::Mat photo = cv::imread(arguments[2]);
    const float lowest = std::stof(arguments[3]);
    const cv::Size size(std::atoi(arguments[4]), std::atoi(arguments[5]));

    cv::Mat image;
    resized(photo, size).convertTo(image, CV_32F, 1 / 255.0);
    cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
    cv::subtract(image, cv::Scalar(0.485, 0.456, 0.406), image);
    cv::divide(image, cv::Scalar(0.229, 0.224, 0.225), image);
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
        cv::dnn::NMSBoxes(rectangles, values, lowest, 0.45f, kept);
        for (int row : kept) {
            const float* box = boxes.ptr<float>(row);
            std::cout << number << ' ' << values[row] << ' ' << std::max(0.0, box[0] * x) << ' ' << std::max(0.0, box[1] * y) << ' '
                      << std::min(double(photo.cols), box[2] * x) << ' ' << std::min(double(photo.rows), box[3] * y) << '\n';
        }
    }
}
