// Ask a bundle something, without Python: the answer is printed as it comes.
//
//     chat BUNDLE PROMPT [MAX_TOKENS]
//
// The prompt becomes the ids that `edgelm run` makes of it: by the model's chat template where it has one, which writes BOS
// itself; otherwise as it is, behind BOS where the model wants that.

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

#include "genai.h"

namespace {

void check(OgaResult* result) {
  if (!result) return;
  std::string message = OgaResultGetError(result);
  OgaDestroyResult(result);
  throw std::runtime_error(message);
}

template <typename T, void (*destroy)(T*)>
struct Destroy {
  void operator()(T* value) const { destroy(value); }
};
template <typename T, void (*destroy)(T*)>
using Owned = std::unique_ptr<T, Destroy<T, destroy>>;

using Model = Owned<OgaModel, OgaDestroyModel>;
using Tokenizer = Owned<OgaTokenizer, OgaDestroyTokenizer>;
using Stream = Owned<OgaTokenizerStream, OgaDestroyTokenizerStream>;
using Sequences = Owned<OgaSequences, OgaDestroySequences>;
using Params = Owned<OgaGeneratorParams, OgaDestroyGeneratorParams>;
using Generator = Owned<OgaGenerator, OgaDestroyGenerator>;

// A file's text; empty where there is none.
std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string json_string(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') out << '\\' << c;
    else if (c < 0x20) out << "\\u00" << (c >> 4) << "0123456789abcdef"[c & 15];
    else out << c;
  }
  out << '"';
  return out.str();
}

Sequences encode(OgaTokenizer* tokenizer, const std::string& folder, const std::string& prompt) {
  std::string text = prompt;
  const std::string chat_template = read(folder + "/chat_template.jinja");
  if (!chat_template.empty()) {
    const std::string messages = "[{\"role\": \"user\", \"content\": " + json_string(prompt) + "}]";
    const char* rendered = nullptr;
    check(OgaTokenizerApplyChatTemplate(tokenizer, chat_template.c_str(), messages.c_str(), nullptr, true, &rendered));
    text = rendered;
    OgaDestroyString(rendered);
  }
  // By itself onnxruntime-genai adds no BOS. A template writes it where the model wants it: twice would be wrong.
  const char* keys[] = {"add_special_tokens"};
  const char* values[] = {chat_template.empty() ? "true" : "false"};
  check(OgaUpdateTokenizerOptions(tokenizer, keys, values, 1));
  OgaSequences* made = nullptr;
  check(OgaCreateSequences(&made));
  Sequences sequences(made);
  check(OgaTokenizerEncode(tokenizer, text.c_str(), made));
  return sequences;
}

// The longest prompt plus answer, in tokens, as genai_config.json has it.
size_t context_of(const std::string& folder) {
  const std::string text = read(folder + "/genai_config.json"), key = "\"context_length\":";
  const size_t found = text.find(key);
  if (found == std::string::npos) throw std::runtime_error(folder + " is no bundle: it has no genai_config.json");
  return std::strtoul(text.c_str() + found + key.size(), nullptr, 10);
}

void answer(const std::string& folder, const std::string& prompt, size_t max_tokens, bool ids) {
  const size_t context = context_of(folder);
  OgaModel* model = nullptr;
  check(OgaCreateModel(folder.c_str(), &model));
  Model model_owner(model);
  OgaTokenizer* tokenizer = nullptr;
  check(OgaCreateTokenizer(model, &tokenizer));
  Tokenizer tokenizer_owner(tokenizer);
  OgaTokenizerStream* stream = nullptr;
  check(OgaCreateTokenizerStream(tokenizer, &stream));
  Stream stream_owner(stream);

  const Sequences sequences = encode(tokenizer, folder, prompt);
  const size_t length = OgaSequencesGetSequenceCount(sequences.get(), 0);
  if (ids) {  // what the model is given: compare with edgelm's
    const int32_t* data = OgaSequencesGetSequenceData(sequences.get(), 0);
    for (size_t i = 0; i < length; ++i) std::cerr << data[i] << (i + 1 < length ? ' ' : '\n');
  }

  if (length >= context) {
    throw std::runtime_error("the prompt has " + std::to_string(length) + " tokens, and the model takes " +
                             std::to_string(context) + ": shorten it");
  }
  OgaGeneratorParams* params = nullptr;
  check(OgaCreateGeneratorParams(model, &params));
  Params params_owner(params);
  // Prompt and answer. The KV cache is made this long at once: keep it short.
  check(OgaGeneratorParamsSetSearchNumber(params, "max_length", static_cast<double>(std::min(length + max_tokens, context))));
  OgaGenerator* generator = nullptr;
  check(OgaCreateGenerator(model, params, &generator));
  Generator generator_owner(generator);
  check(OgaGenerator_AppendTokenSequences(generator, sequences.get()));
  while (!OgaGenerator_IsDone(generator)) {
    check(OgaGenerator_GenerateNextToken(generator));
    const int32_t* tokens = nullptr;
    size_t count = 0;
    check(OgaGenerator_GetNextTokens(generator, &tokens, &count));
    const char* piece = nullptr;
    check(OgaTokenizerStreamDecode(stream, tokens[0], &piece));
    std::cout << piece << std::flush;
  }
  std::cout << std::endl;
}

}  // namespace

int main(int count, char** arguments) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);  // nothing leaves the device
  if (count < 3 || count > 4) {
    std::cerr << "usage: chat BUNDLE PROMPT [MAX_TOKENS]\n";
    return 2;
  }
  int code = 0;
  try {
    answer(arguments[1], arguments[2], count > 3 ? std::strtoul(arguments[3], nullptr, 10) : 128, std::getenv("EDGELM_SHOW_IDS") != nullptr);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    code = 1;
  }
  OgaShutdown();
  return code;
}
