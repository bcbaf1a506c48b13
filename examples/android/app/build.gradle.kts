plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "example.edgelm"
    compileSdk = 35

    defaultConfig {
        applicationId = "example.edgelm"
        minSdk = 27
        targetSdk = 35
        versionCode = 1
        versionName = "1"
        ndk { abiFilters += "arm64-v8a" }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }

    // A bundle in the app's assets is copied out of the APK at the first start: do not spend time on packing weights.
    androidResources { noCompress += listOf("data", "onnx") }
}

dependencies {
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.32.0")
    implementation(files("libs/onnxruntime-genai-android.aar"))
    implementation("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.9.0")
}
