package example.edgelm

import android.app.Activity
import android.os.Bundle
import android.system.Os
import android.widget.Button
import android.widget.EditText
import android.widget.TextView
import java.io.File
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.MainScope
import kotlinx.coroutines.cancel
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** A prompt and its streamed answer. */
class MainActivity : Activity() {
    private val scope: CoroutineScope = MainScope()
    private val worker = Dispatchers.Default.limitedParallelism(1) // one text at a time
    private var model: EdgeBundle? = null
    private var running: Job? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", true) // before the libraries are loaded: nothing leaves the phone
        setContentView(R.layout.main)
        val answer = findViewById<TextView>(R.id.answer)
        val send = findViewById<Button>(R.id.send)
        send.setOnClickListener { if (running?.isActive == true) running?.cancel() else ask() }
        answer.setText(R.string.loading)
        scope.launch {
            try {
                model = withContext(worker) { EdgeBundle(bundle()) }
                answer.text = ""
                send.isEnabled = true
            } catch (error: Exception) {
                answer.text = error.message
            }
        }
    }

    override fun onDestroy() {
        scope.cancel()
        val loaded = model
        CoroutineScope(worker).launch { loaded?.close() } // behind a text that is still being made
        super.onDestroy()
    }

    private fun ask() {
        val prompt = findViewById<EditText>(R.id.prompt).text.toString()
        val answer = findViewById<TextView>(R.id.answer)
        val send = findViewById<Button>(R.id.send)
        val loaded = model ?: return
        if (prompt.isBlank()) return
        answer.text = ""
        send.setText(R.string.stop)
        running = scope.launch {
            try {
                loaded.answer(listOf(Message("user", prompt))).flowOn(worker).collect { answer.append(it) }
            } catch (error: CancellationException) {
                throw error
            } catch (error: Exception) { // such as a prompt that is too long
                answer.append(error.message)
            } finally {
                send.setText(R.string.send)
            }
        }
    }

    /** The bundle's folder: what `adb push` brought, else the one in the APK, copied out of it once. */
    private fun bundle(): File {
        val pushed = File(getExternalFilesDir(null), "bundle")
        if (File(pushed, "manifest.json").isFile) return pushed
        val folder = File(filesDir, "bundle")
        if (File(folder, "manifest.json").isFile) return folder
        val names = assets.list("bundle").orEmpty()
        require("manifest.json" in names) { "no bundle: adb push one to ${pushed.path}, or put one into app/src/main/assets/bundle" }
        folder.mkdirs()
        for (name in names.sortedBy { it == "manifest.json" }) { // last: without it the folder is not whole
            assets.open("bundle/$name").use { from -> File(folder, name).outputStream().use { from.copyTo(it) } }
        }
        return folder
    }
}
