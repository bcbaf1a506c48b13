// The part of onnxruntime-genai's C interface (0.18) that this example uses. Its packages for Android and Windows bring the
// whole of it as ort_genai_c.h; its Python wheels, from which the libraries are taken here, do not.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
struct OgaResult;
struct OgaModel;
struct OgaTokenizer;
struct OgaTokenizerStream;
struct OgaSequences;
struct OgaGeneratorParams;
struct OgaGenerator;

// A call that fails returns what went wrong; null is success.
const char* OgaResultGetError(const OgaResult* result);
void OgaDestroyResult(OgaResult* result);
void OgaDestroyString(const char* text);
void OgaShutdown();

OgaResult* OgaCreateModel(const char* folder, OgaModel** out);
void OgaDestroyModel(OgaModel* model);

OgaResult* OgaCreateTokenizer(const OgaModel* model, OgaTokenizer** out);
void OgaDestroyTokenizer(OgaTokenizer* tokenizer);
OgaResult* OgaUpdateTokenizerOptions(OgaTokenizer* tokenizer, const char* const* keys, const char* const* values, size_t count);
// `chat_template` and `tools` may be null; `messages` is JSON. `out` is freed by OgaDestroyString.
OgaResult* OgaTokenizerApplyChatTemplate(const OgaTokenizer* tokenizer, const char* chat_template, const char* messages,
                                         const char* tools, bool add_generation_prompt, const char** out);
OgaResult* OgaTokenizerEncode(const OgaTokenizer* tokenizer, const char* text, OgaSequences* out);
OgaResult* OgaCreateTokenizerStream(const OgaTokenizer* tokenizer, OgaTokenizerStream** out);
void OgaDestroyTokenizerStream(OgaTokenizerStream* stream);
// `out` belongs to the stream, until the next call.
OgaResult* OgaTokenizerStreamDecode(OgaTokenizerStream* stream, int32_t token, const char** out);

OgaResult* OgaCreateSequences(OgaSequences** out);
void OgaDestroySequences(OgaSequences* sequences);
size_t OgaSequencesGetSequenceCount(const OgaSequences* sequences, size_t index);
const int32_t* OgaSequencesGetSequenceData(const OgaSequences* sequences, size_t index);

OgaResult* OgaCreateGeneratorParams(const OgaModel* model, OgaGeneratorParams** out);
void OgaDestroyGeneratorParams(OgaGeneratorParams* params);
OgaResult* OgaGeneratorParamsSetSearchNumber(OgaGeneratorParams* params, const char* name, double value);
OgaResult* OgaCreateGenerator(const OgaModel* model, const OgaGeneratorParams* params, OgaGenerator** out);
void OgaDestroyGenerator(OgaGenerator* generator);
OgaResult* OgaGenerator_AppendTokenSequences(OgaGenerator* generator, const OgaSequences* sequences);
bool OgaGenerator_IsDone(OgaGenerator* generator);
OgaResult* OgaGenerator_GenerateNextToken(OgaGenerator* generator);
// `out` belongs to the generator, until the next call.
OgaResult* OgaGenerator_GetNextTokens(const OgaGenerator* generator, const int32_t** out, size_t* count);
}
