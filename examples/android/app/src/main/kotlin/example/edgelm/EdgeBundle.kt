package example.edgelm

import ai.onnxruntime.genai.Generator
import ai.onnxruntime.genai.GeneratorParams
import ai.onnxruntime.genai.Model
import ai.onnxruntime.genai.Tokenizer
import java.io.File
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/**
 * A bundle that `edgelm export --target android-arm64` made, through onnxruntime-genai.
 *
 * One text at a time; every call may take long: not on the main thread.
 */
class EdgeBundle(private val folder: File) : AutoCloseable {
    private val model = Model(folder.path)
    private val tokenizer = Tokenizer(model)
    private val template = File(folder, "chat_template.jinja").takeIf { it.isFile }?.readText()

    init {
        // By itself onnxruntime-genai adds no BOS. A template writes it where the model wants it: twice would be wrong.
        tokenizer.updateOptions(mapOf("add_special_tokens" to if (template == null) "true" else "false"))
    }

    /** The answer to a message, piece by piece; who stops collecting stops the model before its next token. */
    fun answer(message: String, maxTokens: Int = 256): Flow<String> = flow {
        val prompt = if (template == null) message else {
            tokenizer.applyChatTemplate(template, """[{"role": "user", "content": ${quoted(message)}}]""", null, true)
        }
        tokenizer.encode(prompt).use { sequences ->
            GeneratorParams(model).use { params ->
                // Prompt and answer. The KV cache is made this long at once: keep it short.
                params.setSearchOption("max_length", (sequences.getSequence(0).size + maxTokens).toDouble())
                Generator(model, params).use { generator ->
                    tokenizer.createStream().use { stream ->
                        generator.appendTokenSequences(sequences)
                        while (!generator.isDone) {
                            generator.generateNextToken()
                            emit(stream.decode(generator.getLastTokenInSequence(0)))
                        }
                    }
                }
            }
        }
    }

    override fun close() {
        tokenizer.close()
        model.close()
    }
}

/** A text as a JSON string. */
internal fun quoted(text: String): String = buildString {
    append('"')
    for (c in text) {
        when {
            c == '"' || c == '\\' -> append('\\').append(c)
            c < ' ' -> append("\\u").append(c.code.toString(16).padStart(4, '0'))
            else -> append(c)
        }
    }
    append('"')
}
