pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
        // onnxruntime-genai's AAR is not on Maven Central: put it here (README.md).
        flatDir { dirs("app/libs") }
    }
}

rootProject.name = "edgelm"
include(":app")
