package example.edgelm

import ai.onnxruntime.genai.Generator
import ai.onnxruntime.genai.GeneratorParams
import ai.onnxruntime.genai.Model
import ai.onnxruntime.genai.Tokenizer
import java.io.File
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import org.json.JSONArray
import org.json.JSONObject

/** A turn of a conversation: its role is system, user or assistant. */
data class Message(val role: String, val content: String)

/**
 * A bundle that `edgelm export --target android-arm64` made, through onnxruntime-genai.
 *
 * One text at a time; every call may take long: not on the main thread.
 */
class EdgeBundle(private val folder: File) : AutoCloseable {
    private val model = Model(folder.path)
    private val tokenizer = Tokenizer(model)
    private val template = File(folder, "chat_template.jinja").takeIf { it.isFile }?.readText()

    /** The longest prompt plus answer, in tokens. */
    val context: Int = JSONObject(File(folder, "genai_config.json").readText()).getJSONObject("model").getInt("context_length")

    init {
        // By itself onnxruntime-genai adds no BOS. A template writes it where the model wants it: twice would be wrong.
        tokenizer.updateOptions(mapOf("add_special_tokens" to if (template == null) "true" else "false"))
    }

    /**
     * The answer to a conversation, of which the last message is the user's, piece by piece; who stops collecting stops the
     * model before its next token. The whole conversation is read anew each time: keep it short.
     *
     * Throws IllegalArgumentException where the conversation leaves no room for an answer.
     */
    fun answer(conversation: List<Message>, maxTokens: Int = 256): Flow<String> = flow {
        val messages = JSONArray(conversation.map { JSONObject(mapOf("role" to it.role, "content" to it.content)) }).toString()
        val prompt = if (template == null) conversation.last().content else {
            tokenizer.applyChatTemplate(template, messages, null, true)
        }
        tokenizer.encode(prompt).use { sequences ->
            GeneratorParams(model).use { params ->
                val length = sequences.getSequence(0).size
                require(length < context) { "the prompt has $length tokens, and the model takes $context: shorten it" }
                // Prompt and answer. The KV cache is made this long at once: keep it short.
                params.setSearchOption("max_length", minOf(length + maxTokens, context).toDouble())
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
